// Replies by the models of the letters world to a prompt of the reader's own, written in the page; and how
// far a model is from SFT there. After in_page.js.

const SHOWN = 5; // of the replies that are written
const NAMES = {
  base: ["base", "the pretrained model"],
  sft: ["SFT", "fine-tuned on demonstrations"],
  aligned: ["aligned", "trained by PPO from SFT"],
};

const problem = ({ prompt, shown, recorded, weights }) =>
  unless(typeof prompt === "string", "prompt is no text") ??
  wrongChoice("shown", shown, Object.keys(NAMES)) ??
  unless(
    Object.keys(NAMES).every(
      (name) => typeof weights?.[name] === "string" && Array.isArray(recorded?.[name]),
    ),
    "the models or their recorded replies are missing",
  );

// The engine with the models that were asked for so far. `said` gets what it has written, or why not.
function writerOf({ model, read, said }) {
  const engine = engineOf((news) => said(news));
  const loaded = new Set();
  const { shape, lists } = read();
  engine.tell({ kind: "open", kernel: bytesOf(KERNEL), shape, lists });
  return {
    async write(name, prompt, seed) {
      const { weights } = read();
      for (const needed of ["sft", name]) {
        if (loaded.has(needed)) continue;
        const { [needed]: bytes } = await weightsOf(model, { [needed]: weights[needed] });
        loaded.add(needed);
        engine.tell({ kind: "load", name: needed, bytes });
      }
      engine.tell({ kind: "write", name, prompt, seed });
    },
    end: engine.end,
  };
}

function replyItem({ text: words, gold, gap }) {
  const worth = html("span", { class: "rlhf-reply-gold" });
  const parts = [
    Number.isFinite(gold) ? `gold ${format(gold, 2)}` : "",
    Number.isFinite(gap) ? `${format(gap, 1)} nats` : "",
  ];
  worth.textContent = parts.filter(Boolean).join(", ");
  return html(
    "li",
    { class: "rlhf-reply" },
    html("span", { class: "rlhf-reply-text" }, words || "(an empty reply)"),
    worth,
  );
}

function summaryOf({ kl, length, replies, unknown }, name) {
  const listed = unknown.map((word) => `“${word}”`).join(", ");
  const strange = unknown.length ? ` No model of this world has read ${listed}.` : "";
  const far =
    name === "sft"
      ? "SFT is what the others are measured against."
      : `KL from SFT on ${replies.length} replies: ${format(kl.mean, 1)} ± ${format(kl.half, 1)} nats.`;
  return `${far} Length ${format(length, 1)} tokens.${strange}`;
}

function build({ model, read, set, note, redraw }) {
  const unable = cannotRun();
  let writer = null;
  let busy = false;
  let why = "";
  let written = null; // { name, prompt, found }
  let count = 0;
  const said = (news) => {
    if (news.kind === "written") written = news;
    if (news.kind === "failed" || news.kind === "refused") why = news.text;
    if (news.kind === "failed") {
      writer?.end(); // it hears nothing more
      writer = null;
    }
    busy = false;
    redraw();
  };
  const write = async () => {
    if (busy || unable) return;
    [busy, why] = [true, ""];
    redraw();
    try {
      writer ??= writerOf({ model, read, said });
      await writer.write(read().shown, field.value, ++count);
    } catch (error) {
      said({ kind: "failed", text: error.message });
    }
  };
  const field = textField({
    control: "prompt",
    label: "your prompt",
    class: "rlhf-field rlhf-prompt",
    inputmode: "text",
  });
  field.addEventListener("change", () => set({ prompt: field.value }));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") write();
  });
  const models = choices(
    "model",
    (name) => [{ control: `model-${name}`, label: NAMES[name][1] }, NAMES[name][0]],
    (shown) => set({ shown }),
  );
  models.offer(Object.keys(NAMES));
  const go = button({ control: "write", label: "write 64 replies" }, "write", write);
  const heading = html("p", { class: "rlhf-replies-head", "data-name": "heading" });
  const list = html("ul", { class: "rlhf-replies", "aria-label": "replies" });
  const summary = html("p", { class: "rlhf-legend", "data-name": "summary", role: "status" });
  return {
    figure: [
      row("model", "who writes", models.element),
      row("prompt", "in words of this world", field, go),
      heading,
      list,
      summary,
    ],
    draw({ prompt, shown, recorded, asked }) {
      models.show(shown);
      if (document.activeElement !== field) field.value = prompt;
      attribute(go, "aria-disabled", busy || unable ? "true" : null);
      go.textContent = busy ? "writing" : "write";
      note(unable ? `${unable} Below are recorded replies.` : why ? `Nothing was written: ${why}.` : "");
      const mine = written && written.name === shown;
      const replies = mine ? written.found.replies.slice(0, SHOWN) : recorded[shown];
      const of = NAMES[mine ? written.name : shown][0];
      heading.textContent = mine ? `${of}, to: ${written.prompt}` : `${of}, recorded, to: ${asked}`;
      list.replaceChildren(...replies.map(replyItem));
      summary.textContent = mine ? summaryOf(written.found, written.name) : "";
      return "";
    },
    stop: () => writer?.end(),
  };
}

const STATE = ["prompt", "asked", "shown", "recorded", "weights", "shape", "lists"];
const cannot = "This figure cannot be drawn";
export default demo({ kind: "rlhf-prompt-lab", state: STATE, problem, build, cannot });
