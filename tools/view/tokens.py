"""Split an answer into the texts of its tokens. Joined, they are the answer."""

from tokenizers.decoders import DecodeStream


class Pieces:
    """Splits answers into the texts of their tokens, with a tokenizer.

    A character may be spread over several tokens (an emoji in byte-level BPE). Its first token then
    gets the whole text, and those that complete it get "".
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.special = set(tokenizer.all_special_ids)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def split(self, ids: list[int]) -> list[str]:
        """One text for each id, special tokens included."""
        stream, pieces, begin = DecodeStream(skip_special_tokens=False), [""] * len(ids), 0
        for i, token in enumerate(ids):
            if text := stream.step(self.tokenizer.backend_tokenizer, token):
                pieces[begin], begin = text, i + 1
        whole, known = self.decode(ids), "".join(pieces)
        if not whole.startswith(known):  # a decoder that changes what it has written
            return [whole, *[""] * (len(ids) - 1)]
        if begin < len(ids):  # the answer was cut inside a character
            pieces[begin] = whole[len(known) :]
        return pieces
