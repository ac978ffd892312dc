r"""Rule-based rewards for math answers: a string in, +1 or -1 out. No model is needed.

justrl   strict_box (its two ablations: overlong_penalty, robust)
prorl    deepscaler_match or robust, whichever accepts
liteppo  robust
"""

import re

from verifier import equal

# ---------------------------------------------------------------- JustRL: the box as text


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` of `text`, or None if there is none or it never closes.

    Braces are counted without escapes, as DAPO's code does: `\}` closes. An unclosed last box
    voids an earlier one.
    """
    start = text.rfind(r"\boxed{")
    end = _box_end(text, start, r"[{}]")
    return None if end is None else text[start + len(r"\boxed{") : end]


def _box_end(text: str, start: int, pattern: str = r"\\.|[{}]") -> int | None:
    r"""Index of the brace that closes the `\boxed{` at `start`; None if there is none.

    By its default pattern `\{` and `\}` are no braces.
    """
    depth = 0
    for found in re.compile(pattern, re.DOTALL).finditer(text, start) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0 and found[0] == "}":
            return found.start()
    return None


def strict_box(response: str, answer: str) -> float:
    """+1.0 if the last box in the last 100 characters is exactly `answer`, else -1.0.

    JustRL's training reward. Neither side is normalised or stripped. (DAPO's code cuts the response
    to 300 characters first, which changes nothing.)
    """
    return 1.0 if last_boxed(response[-100:]) == answer else -1.0


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """DAPO's soft overlong punishment (eq. 13, veRL's form), to be added to the reward; in [-1, 0].

    In response tokens: 0 up to max_length - buffer, then linear, -1 at max_length. Raises
    ValueError unless 0 < buffer <= max_length.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"The overlong buffer must be between 1 and max_length={max_length} tokens, "
            f"not {buffer}."
        )
    return min(0.0, -(length - (max_length - buffer)) / buffer)


# ---------------------------------------------------------------- robust: equal in meaning

_NAME = r"(?P<name>\\?[A-Za-z][\w{}']*(?:\([\w,]*\))?)\s*=\s*\$?\s*"
_BETWEEN = re.compile(  # what may separate the boxes of one answer
    r"(?:\s|\$|,|;|\\[()\[\],;:! ]|\\q?quad|and|or|\\text\{\s*,?\s*(?:and|or)\s*\})+"
    rf"(?:{_NAME})?"
)


def final_boxes(text: str) -> list[tuple[str, str, str]]:
    r"""(separator, name, content) of the boxes that form one list at the end of `text`.

    `$x=\boxed{1}$ or $x=\boxed{-2}$` is [("", "x", "1"), (" or ", "x", "-2")]. Boxes with other
    words between them are not one list, and then the last one alone counts. `\boxed {2}`,
    `\boxed 2` and `\fbox{2}` are boxes too.
    """
    text = re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", r"\\boxed", text)
    text = re.sub(r"\\(?:boxed|fbox)\s+(-?\d[^\s$]*)", r"\\boxed{\1}", text)
    boxes, end = [], len(text)
    while (start := text.rfind(r"\boxed{", 0, end)) >= 0:
        close = _box_end(text, start)
        if close is None or len(boxes) > 600:  # an answer of so many boxes is too long anyway
            break
        content = text[start + len(r"\boxed{") : close]
        if boxes:
            between = text[close + 1 : end]
            found = _BETWEEN.fullmatch(between) if len(between) <= 40 else None
            listed = found and re.search(r"[,;]|quad|and|or", re.sub(r"\\[,;]", "", between))
            if not listed and not (found and content == boxes[-1][2]):
                break  # only a repetition may follow without a comma
            if listed:
                mark = " or " if "or" in between else ", "
                boxes[-1] = (mark, found["name"] or "", boxes[-1][2])
        if not boxes or listed:
            boxes.append(("", "", content))
        end = start
    first = re.search(rf"(?<![\w\\]){_NAME}$", text[max(0, end - 30) : end])
    if first and len(boxes) > 1:
        boxes[-1] = ("", first["name"], boxes[-1][2])
    return boxes[::-1]


def last_answer(text: str) -> str | None:
    r"""The content of the last box, or of the `final_boxes`; None if there is none.

    `\boxed{3}, \boxed{5} and \boxed{7}` is "3, 5, 7"; the names of different quantities are kept.
    """
    return joined(final_boxes(text))


def joined(boxes: list[tuple[str, str, str]]) -> str | None:
    """The contents of `final_boxes` as one answer."""
    if len({name for _, name, _ in boxes if name}) > 1:
        boxes = [(mark, name, f"{name} = {content}") for mark, name, content in boxes]
    return "".join(mark + content for mark, _, content in boxes) if boxes else None


def robust(response: str, answer: str) -> float:
    """+1.0 if the final answer of `response` (its `last_answer`) means `answer`, else -1.0."""
    return robust_many([response], [answer])[0]


def robust_many(responses: list[str], answers: list[str]) -> list[float]:
    """`robust` of each pair; equal pairs are judged once. A value that is not text is wrong."""
    pairs = [
        (last_answer(response) if isinstance(response, str) else None, answer)
        for response, answer in zip(responses, answers, strict=True)
    ]
    verdicts = {
        pair: all(isinstance(text, str) for text in pair) and equal(*pair)
        for pair in dict.fromkeys(pairs)
    }
    return [1.0 if verdicts[pair] else -1.0 for pair in pairs]


# ---------------------------------------------------------------- ProRL: DeepScaleR's string match


def _mathd(text: str) -> str:
    """Rewrite to one LaTeX spelling, without units and decoration, to compare by `==`.

    ProRL's reward accepts what this or the robust verifier accepts. This one also accepts some
    pairs that are not equal, such as 0.5% for 0.5.
    """
    text = text.strip().replace("\n", "").replace(r"\!", "").replace(r"\\", "\\")
    text = re.sub(r"\\[td]frac", r"\\frac", text)
    text = re.sub(r"\\left|\\right|\^\{?\\circ\}?|\\\$|\\?%", "", text)
    text = re.sub(r"\\text\{ .*$", "", text)  # a unit follows a space
    text = re.sub(r"^\\text\{(.+)\}$", r"\1", text)
    text = re.sub(r"(^|[ {])\.(?=\d)", r"\g<1>0.", text)
    text = re.sub(r"^[^=]{1,2}=([^=]+)$", r"\1", text.replace(" ", ""))  # k = 5
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


def deepscaler_match(response: str, answer: str) -> float:
    """+1.0 if the last box equals `answer` after a MATH-style normalisation of both, else -1.0."""
    box = last_boxed(response)
    short = box is not None and len(box) + len(answer) < 1200
    return 1.0 if short and _mathd(box) == _mathd(answer) else -1.0
