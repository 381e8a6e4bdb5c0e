"""Does an output turn back? What the warm start teaches (paper: traces with backtracking) and evaluation measures."""

from __future__ import annotations

import re

# Wordings with which an English text takes something back or goes over it again, as regular expressions. Each asks for
# the words around it that tell turning back from other uses: "wait, …" but not "the wait was long".
TURN_BACK = (
    r"(?:^|[.,;:!?(\n]\s*|\b(?:but|oh|no|hmm+)[,\s]+)wait\b(?!\s+(?:for|until|till|time)\b)",
    r"\bwait\s*(?:[,.!:;?…]|-{1,2}|–|—|$)",
    r"\blook(?:ing)?(?:\s+at\s+(?:it|this|that))?\s+again\b",
    r"\b(?:check|think|try|read|compute|calculate|count|do|start)(?:ing)?(?:\s+\w+){0,4}?\s+"
    r"(?:again|anew|afresh|once\s+more)\b",
    r"\b(?:let\s+me|let['’]?s|i(?:['’]ll|\s+will|\s+should|\s+must|\s+need\s+to|\s+have\s+to))\s+(?:\w+\s+)?"
    r"(?:double[- ]?check|revise|re-?(?:check|examine|think|read|compute|calculate|do|evaluate))\b",
    r"\bbut\s+(?:let\s+me\s+)?check\s+(?:it|this|that)\b",
    r"\bneeds?\s+(?:a|another)\s+(?:\w+\s+)?(?:check|look)\b",
    r"\bre-?consider(?:ing|ed)?\b",
    r"\b(?:on|upon)\s+(?:second\s+thoughts?|reflection|closer\s+(?:look|inspection)|re-?reading)\b",
    r"\b(?:going|go|step(?:ping)?|turn(?:ing)?)\s+back\b",
    r"\bback(?:ing)?\s*-?track(?:ing)?\b",
    r"\bstart(?:ing)?\s+over\b",
    r"\b(?:that|this|it)(?:['’]s|\s+is|\s+was|\s+seems|\s+looks)(?:\s+\w+)?\s+(?:not\s+(?:quite\s+)?(?:right|correct)"
    r"|wrong|incorrect|a\s+mistake|an\s+error)\b",
    r"\b(?:that|this|it)\s+(?:isn['’]t|wasn['’]t|can(?:not|['’]t)\s+be|doesn['’]t\s+(?:look|seem))\s+(?:quite\s+)?"
    r"(?:right|correct)\b",
    r"\bi\s+(?:(?:have\s+)?(?:made|make|see\s+(?:a|my))\s+(?:(?:a|an|the|my|some)\s+)?(?:\w+\s+)?(?:mistakes?|errors?|slip)"
    r"|was\s+(?:wrong|mistaken)|mis(?:read|counted|calculated|took|understood|stated)|(?:got|had)\s+(?:that|it)\s+wrong"
    r"|overlooked|forgot)\b",
    r"\bmy\s+(?:mistake|error|bad)\b",
    r"(?:^|[.;:!?\n]\s*|\b(?:no|but|oh|hmm+)[,\s]+)actually\b",
    r"\bactually\s*,",
    r"\b(?:scratch\s+that|hold\s+on|hang\s+on|never\s*mind|strike\s+that)\b",
    r"\bcorrection\s*:",
    r"\bi\s+(?:take|took)\s+(?:that|it|this)\s+back\b",
    r"\bi(?:['’]ll|\s+will|\s+must|\s+should|\s+need\s+to)?\s+(?:correct|change)\s+(?:that|it|this|my|the)\b",
)
_TURN_BACK = re.compile("|".join(f"(?:{phrase})" for phrase in TURN_BACK), re.IGNORECASE)

_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"<answer>.*?(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
# A sentence about somebody's answer states none of the writer's own.
_OTHERS = re.compile(r"\b(?:agents?|responses?|team|they|their|others|\d+\s+(?:say|says))\b", re.IGNORECASE)
_STATED = re.compile(
    r"\\boxed\{([^{}]{1,80})\}"
    r"|\b(?:the|my|final)\s+(?:final\s+|correct\s+|right\s+)?(?:answer|result)\s*(?:is|=|:|must\s+be|should\s+be)\s*:?\s*"
    r"([^\s,;:][^,;:\n]{0,79}?)(?=\s*(?:[,;:]|\.?\s*$|\.\s|\s(?:because|since|as|so|but|and)\s))",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NEGATED = re.compile(r"^(?:not|wrong|incorrect|unclear|unknown|either)\b", re.IGNORECASE)


def revises(output: str) -> bool:
    """Whether a leader output takes back an answer while it thinks.

    True when its <think> block (without one: everything but the <answer> block) has a wording of `TURN_BACK`, or states
    two or more different answers as its own ("the answer is …", \\boxed{…}). Sentences about the agents' answers do not
    count as stating one. It is a matter of wording: whether the turn was for the better is for the verdict to say.
    """
    blocks = _THINK.findall(output)
    thought = "\n".join(blocks) if blocks else _ANSWER.sub(" ", output)
    return bool(_TURN_BACK.search(thought)) or len(_stated(thought)) > 1


def _stated(thought: str) -> set[str]:
    """The different answers that a text states as its own, in a form in which they can be compared."""
    answers = set()
    for sentence in _SENTENCE.split(thought):
        if not _OTHERS.search(sentence):
            for boxed, said in _STATED.findall(sentence):
                text = _BOXED.sub(r"\1", boxed or said).strip(" .*$`'\"()").casefold()
                if text and not _NEGATED.match(text):
                    answers.add("".join(text.split()))
    return answers
