/* The questions of an evaluation: two systems A and B side by side. The data are those of explorer.py. */
const run = () => DATA.runs[Number($("run").value)];
const mark = (bits, index) => bits[index] === "1" ? "right" : bits[index] === "0" ? "wrong" : "none";
const numbered = (names, first) => [...(first ? [["", first]] : []), ...names.map((name, i) => [String(i), name])];
const OUTCOMES = { won: ["right", "wrong"], lost: ["wrong", "right"], both: ["right", "right"], neither: ["wrong", "wrong"] };

function side(kept, index, question) {
  const r = run(), box = element("div", "side"), outcome = mark(question[5], index);
  box.append(element("h4", outcome, r.systems[index] + " " + SYMBOL[outcome]));
  const turns = kept.turns[r.shown_as[index]];
  if (!turns) { box.append(element("p", "none", "no transcript kept for this system")); return box; }
  let round = -1;
  for (const [player, at, text, answer, right, tokens] of turns) {
    if (at !== round && turns[turns.length - 1][1] > 0) box.append(element("small", "none", "round " + (at + 1)));
    round = at;
    box.append(turnNode(player, right ? "right" : "wrong", "answer: " + (answer === null ? "none" : answer) + " · " + tokens + " tokens", kept.texts[text]));
  }
  return box;
}

if (DATA.runs.length) showRecords({
  heading: "Questions",
  noun: "questions",
  note: () => run().note,
  filters: [
    { id: "run", label: "run", refill: true, options: () => [numbered(DATA.runs.map(r => r.label)), "0"] },
    { id: "a", label: "A", options: () => [numbered(run().systems), String(run().a)] },
    { id: "b", label: "B", options: () => [numbered(run().systems), String(run().b)] },
    { id: "outcome", label: "outcome", options: () => [[["", "all"], ["won", "won: A right, B wrong"], ["lost", "lost: A wrong, B right"],
      ["both", "both right"], ["neither", "both wrong"]]] },
    { id: "subject", label: "subject", options: () => [numbered(run().subjects, "all")] },
    { id: "right", label: "agents right", options: () => [[["", "any number"],
      ...[...new Set(run().questions.map(q => q[4]))].filter(n => n !== null).sort((x, y) => x - y).map(n => [String(n), String(n)])]] },
    { id: "search", label: "search in questions and transcripts" },
    { id: "transcripts", label: "transcripts", options: () => [[["", "all questions"], ["yes", "with transcript"]]] },
  ],
  records: () => run().questions,
  keep(q, state) {
    const wanted = OUTCOMES[state.outcome], kept = run().transcripts[q[0]];
    if (wanted && (mark(q[5], Number(state.a)) !== wanted[0] || mark(q[5], Number(state.b)) !== wanted[1])) return false;
    if (state.subject !== "" && q[1] !== Number(state.subject)) return false;
    if (state.right !== "" && q[4] !== Number(state.right)) return false;
    if (state.transcripts && !kept) return false;
    if (!state.search.trim()) return true;
    return hasWords([q[0], q[2], q[3], run().subjects[q[1]], ...(kept ? [kept.question, ...kept.texts] : [])].join(" "), state.search.trim());
  },
  row(q, state) {
    const a = mark(q[5], Number(state.a)), b = mark(q[5], Number(state.b));
    return [[a, "A " + SYMBOL[a]], [b, "B " + SYMBOL[b]], ["none", q[4] === null ? "" : q[4] + "/" + run().team], ["", q[2]], ["none", run().subjects[q[1]]]];
  },
  open(q, state) {
    const kept = run().transcripts[q[0]];
    if (!kept) return element("p", "none", "The transcript of this question was left out to keep the page small; it is in transcripts.jsonl under id " + q[0] + ".");
    const box = element("div"), sides = element("div", "sides");
    sides.append(side(kept, Number(state.a), q), side(kept, Number(state.b), q));
    box.append(element("pre", "", kept.question), element("p", "", "gold answer: " + q[3]), sides);
    return box;
  },
});
