/* Transcripts of training: groups of outputs to one prompt, side by side. The data are those of cli/samples.py. */
const SPECIAL = /<\|[^|>]*\|>(system|user|assistant)?/g;
const rights = group => group.outputs.filter(output => output.correct).length;
const result = group => rights(group) === 0 ? "wrong" : rights(group) === group.outputs.length ? "right" : "mixed";
const values = key => [...new Set(DATA.map(group => group[key] ?? ""))].sort((x, y) => typeof x === "number" ? x - y : x < y ? -1 : 1);
const choices = key => () => [[["", "all"], ...values(key).map(value => [String(value), value === "" ? "none" : String(value)])]];
/* Of the responses more than half share a wrong answer and an output is right; or a right one, and an output is wrong. */
const MEETS = {
  overridden: group => group.majority === false && rights(group) > 0,
  misled: group => group.majority === true && rights(group) < group.outputs.length,
};

showRecords({
  heading: "Groups",
  noun: "groups",
  note: () => "A group is a prompt and all outputs of the leader to it in one training step.",
  filters: [
    { id: "step", label: "step", options: choices("step") },
    { id: "task", label: "task", options: choices("kind") },
    { id: "round", label: "round", options: choices("round") },
    { id: "result", label: "outputs", options: () => [[["", "all"], ["right", "all right"], ["mixed", "some right"], ["wrong", "all wrong"]]] },
    { id: "meets", label: "the agents' majority", options: () => [[["", "any"], ["overridden", "wrong, and overridden"], ["misled", "right, and departed from"]]] },
    { id: "search", label: "search in prompts and outputs" },
  ],
  records: () => DATA,
  keep(group, state) {
    if (state.step && String(group.step) !== state.step) return false;
    if (state.task && group.kind !== state.task) return false;
    if (state.round && String(group.round) !== state.round) return false;
    if (state.result && result(group) !== state.result) return false;
    if (state.meets && !MEETS[state.meets](group)) return false;
    const words = state.search.trim();
    return !words || hasWords([group.prompt, ...group.outputs.map(output => output.text)].join(" "), words);
  },
  row(group) {
    const outcome = { right: "right", wrong: "wrong", mixed: "none" }[result(group)];
    const start = group.prompt.replace(SPECIAL, " ").replace(/\s+/g, " ").trim().slice(0, 200);
    return [[outcome, rights(group) + "/" + group.outputs.length], ["none", "t " + (group.round ?? "–")], ["none", "step " + group.step], ["", start], ["none", group.kind]];
  },
  open(group) {
    const box = element("div"), sides = element("div", "sides");
    const team = group.agents_correct === undefined ? "no team" : group.agents_correct + " responses right";
    const before = group.last_correct === undefined ? "" : ", the leader's last output " + (group.last_correct ? "right" : "wrong");
    box.append(element("pre", "", group.prompt), element("p", "", "gold answer: " + group.gold + " · " + team + before));
    group.outputs.forEach((output, i) => sides.append(turnNode("output " + (i + 1), output.correct ? "right" : "wrong",
      "answer: " + (output.answer === null ? "none" : output.answer) + " · reward " + output.reward, output.text)));
    box.append(sides);
    return box;
  },
});
