"""Split an answer into the texts of its tokens. Joined, they are the answer."""

REPLACEMENT = "\ufffd"  # what a decoder writes for incomplete characters
LONGEST = 16  # tokens; a longer run of incomplete characters is noise


class Pieces:
    """Splits answers into the texts of their tokens, with a tokenizer.

    A character may be spread over several tokens (an emoji in byte-level BPE). Its first token then
    gets the whole text, and those that complete it get "".
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.special = set(tokenizer.all_special_ids)
        self.known = {}  # text by id: decoding is slow, and ids repeat

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def split(self, ids: list[int]) -> list[str]:
        """One text for each id, special tokens included."""
        whole = self.decode(ids)
        for method in (self._by_token, self._by_window):
            pieces = method(ids)
            if "".join(pieces) == whole:
                return pieces
        return [whole, *[""] * (len(ids) - 1)] if ids else []

    def _by_token(self, ids: list[int]) -> list[str]:
        """Decode every token alone, and parts of a character together. Right for BPE."""
        for i in set(ids) - self.known.keys():
            self.known[i] = self.decode([i])
        texts, pieces, start = [self.known[i] for i in ids], [], 0
        while start < len(ids):
            end, text = start + 1, texts[start]
            if REPLACEMENT in text:
                end, text = self._complete(ids, texts, start)
            pieces += [text, *[""] * (end - start - 1)]
            start = end
        return pieces

    def _complete(self, ids: list[int], texts: list[str], start: int) -> tuple[int, str]:
        """(end, text) of the shortest stretch that decodes cleanly, or of all the noise."""
        end = start + 1
        while end < len(ids) and REPLACEMENT in texts[end]:
            end += 1
            if end - start <= LONGEST and REPLACEMENT not in (text := self.decode(ids[start:end])):
                return end, text
        return end, self.decode(ids[start:end])

    def _by_window(self, ids: list[int]) -> list[str]:
        """What each token adds to those before it, for decoders that look at neighbours."""
        pieces, begin, read = [""] * len(ids), 0, 0
        for end in range(1, len(ids) + 1):
            before, after = self.decode(ids[begin:read]), self.decode(ids[begin:end])
            if len(after) > len(before) and (not after.endswith(REPLACEMENT) or end == len(ids)):
                pieces[read] = after[len(before) :]
                begin, read = read, end
        return pieces
