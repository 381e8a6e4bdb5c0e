"""Leader prompts rendered with the leader's chat template inside a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.budget import count_tokens, cut_to_fit, encode
from openrlhf_mlpo.prompts.chat_template import check_chat_template, render_chat
from openrlhf_mlpo.prompts.templates import SHOW_CHOICES, PromptTemplate, chat_messages, defused_messages, shown
from openrlhf_mlpo.prompts.untrusted import control_tokens, defuse

# A shown response always keeps at least this many tokens of its end: an answer block fits in it.
MIN_RESPONSE_TOKENS = 16


class PromptRenderer:
    """Renders leader prompts that fit.

    OpenRLHF cuts a prompt that is too long from the left, which loses chat header and question with only a warning.
    Here the responses are cut (never the question), and made harmless, as they are untrusted text (`untrusted.defuse`).
    """

    def __init__(
        self,
        tokenizer,
        template: PromptTemplate,
        max_prompt_tokens: int,
        show: str = "full",
        chat_template_kwargs: dict | None = None,
    ):
        """`max_prompt_tokens`: what a rendered prompt may have, by `tokenizer` (`max_len - max_new_tokens`).

        `show`: "full" shows whole responses, "answer" only their final answers (the paper's ablation).
        `chat_template_kwargs`: variables of the chat template, such as {"enable_thinking": False}.
        Raises UserError when the chat template cannot show a leader prompt or `show` is unknown.
        """
        if show not in SHOW_CHOICES:
            raise UserError(f"show must be one of {', '.join(SHOW_CHOICES)}, not {show!r}")
        check_chat_template(tokenizer, bool(template.system), chat_template_kwargs)
        self.tokenizer = tokenizer
        self.template = template
        self.max_prompt_tokens = max_prompt_tokens
        self.show = show
        self.chat_template_kwargs = chat_template_kwargs
        self.control_tokens = control_tokens(tokenizer)
        self._frame = self._split_frame()

    def render(self, question: str, responses: Sequence[str], last_output: str | None = None) -> str:
        """The leader prompt as text, at most `max_prompt_tokens` tokens long.

        Longest responses are cut first, from their beginning. Raises UserError when frame, question and
        `MIN_RESPONSE_TOKENS` of each response do not fit.
        """
        last = [] if last_output is None else [last_output]
        texts = (question, *shown(responses, self.show), *last)
        question, *texts = (defuse(text, self.control_tokens).strip() for text in texts)

        def build(texts: list[str]) -> str:
            return self._text(question, texts[: len(responses)], texts[-1] if last else None)

        prompt = build(texts)
        if self._surely_fits(prompt) or self._excess(prompt) <= 0:
            return prompt
        tokens = encode(self.tokenizer, texts)
        room = self._room(question, build([""] * len(texts)), [len(each) for each in tokens])
        return build(cut_to_fit(self.tokenizer, texts, tokens, room, lambda cut: self._excess(build(cut))))

    def check_fits(self, question: str, team_size: int, rounds: int = 1) -> None:
        """Raise UserError when this question cannot be rendered with `team_size` responses of any length.

        With more than one of `rounds`, nor with the last output that the prompts of later rounds hold beside them.
        """
        later = rounds > 1 and team_size > 0
        frame = self._text(defuse(question, self.control_tokens).strip(), [""] * team_size, "" if later else None)
        texts = team_size + later
        if not self._surely_fits(frame, texts * MIN_RESPONSE_TOKENS):
            self._room(question, frame, [MIN_RESPONSE_TOKENS] * texts)

    def _room(self, question: str, frame: str, lengths: Sequence[int]) -> int:
        """Tokens left beside `frame` for texts of these lengths; UserError when too few for their endings."""
        room = -self._excess(frame)
        if room < sum(min(length, MIN_RESPONSE_TOKENS) for length in lengths):
            raise UserError(
                f"a leader prompt cannot fit {self.max_prompt_tokens} tokens: the question {question[:60]!r} and the "
                f"frame leave {max(room, 0)} for {len(lengths)} texts; raise --data.max_len or lower "
                "--rollout.max_new_tokens"
            )
        return room

    def _surely_fits(self, text: str, more: int = 0) -> bool:
        """Whether `text` and `more` tokens fit whatever the tokenizer makes of the text: so it need not be asked.

        A token covers at least one character of the normalised text, or one byte of it, and normalisation makes ASCII
        no longer, but for one blank that some put in front. Other text can grow (NFC: 3 times, NFKC: 11 times).
        """
        return text.isascii() and len(text) + 1 + more <= self.max_prompt_tokens

    def _excess(self, text: str) -> int:
        """Tokens of `text` over the budget; negative: room."""
        return count_tokens(self.tokenizer, text) - self.max_prompt_tokens

    def _text(self, question: str, texts: Sequence[str], last: str | None) -> str:
        messages = defused_messages(self.template, question, texts, last)
        if self._frame is None:
            return render_chat(self.tokenizer, messages, self.chat_template_kwargs)
        return self._frame[0] + messages[-1]["content"].strip() + self._frame[1]

    def _split_frame(self) -> tuple[str, str] | None:
        """Text before and after the user content, or None where the template does more than insert it.

        Rendering Jinja costs more than everything else about a short prompt; the frame is the same for all.
        """
        mark = "Q7f3 mark"

        def rendered(content: str) -> str:
            messages = chat_messages(self.template, self.template.system, [content])
            return render_chat(self.tokenizer, messages, self.chat_template_kwargs)

        before, marked, after = rendered(mark).partition(mark)
        probe = "a {b} <c>\n\n'd' & {{ e }} \\boxed{f}"
        return (before, after) if marked and before + probe + after == rendered(probe) else None
