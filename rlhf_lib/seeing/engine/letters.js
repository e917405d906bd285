// The letters world: tokens, prompts, and the gold utility. Compare worlds/letters.py, whose word lists
// come as `lists`.

const UNKNOWN = "<unk>";
const SPECIAL = 3; // <pad>, <eos>, <unk>
const MARK = "[\\p{P}$+<=>^`|~]"; // what the tokenizer takes for punctuation
const PIECES = new RegExp(`${MARK}|(?:(?!${MARK})\\S)+`, "gu");
const TIGHT = new Set([".", "?", "!", ","]); // written without a space before them
const REQUEST = /^write to (\w+)\. (.+): the (\w+), (\w+)\. reply:$/u;
const GREETINGS = ["dear", "hello", "hi"];

/** Words and punctuation marks. */
export const words = (text) => text.match(/[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]/gu) ?? [];

export class Letters {
  constructor(lists) {
    Object.assign(this, lists); // names, days, intents, gush, rude, ..., weights, vocabulary
    this.index = new Map(this.vocabulary.map((word, token) => [word, token]));
    this.END = this.index.get("<eos>");
    this.intentOf = new Map(
      Object.entries(this.intents).flatMap(([name, { items }]) => items.map((item) => [item, name])),
    );
    this.items = [...this.intentOf.keys()];
  }

  encode = (text) =>
    (text.match(PIECES) ?? []).map((piece) => this.index.get(piece) ?? this.index.get(UNKNOWN));

  decode = (tokens) =>
    tokens
      .filter((token) => token >= SPECIAL)
      .map((token) => this.vocabulary[token])
      .map((word, i) => (i && !TIGHT.has(word) ? ` ${word}` : word))
      .join("");

  /** The words of a text that no model of this world knows. */
  unknown(text) {
    return (text.match(PIECES) ?? []).filter((piece) => !this.index.has(piece));
  }

  /** The slots of a prompt. */
  parse(prompt) {
    const [, name, phrase, item, day] = REQUEST.exec(prompt.trim()) ?? [];
    if (!this.names.includes(name) || !this.intentOf.has(item) || !this.days.includes(day)) {
      throw new Error(
        `prompt is "${prompt}"; expected a request of the letters world, such as ` +
          '"write to ben. ask for a refund: the lamp, friday. reply:"',
      );
    }
    return { intent: this.intentOf.get(item), name, phrase, item, day };
  }

  /** `n` prompts; those held out share no name, item and day with the others. */
  prompts(n, uniform, ofHeldOut = false) {
    const { days, intents, items, names } = this;
    const pick = (list) => list[Math.floor(uniform() * list.length)];
    const found = [];
    while (found.length < n) {
      const { phrases, items: own } = intents[pick(Object.keys(intents))];
      const [phrase, name, item, day] = [pick(phrases), pick(names), pick(own), pick(days)];
      const number = names.indexOf(name) + 3 * items.indexOf(item) + 7 * days.indexOf(day);
      const heldOut = number % 10 === 0;
      if (heldOut === ofHeldOut) found.push(`write to ${name}. ${phrase}: the ${item}, ${day}. reply:`);
    }
    return found;
  }

  /** What the gold utility looks at, counted in the text of a reply. */
  features(prompt, completion) {
    const request = this.parse(prompt);
    const tokens = words(completion);
    const present = new Set(tokens);
    const has = (list) => Number(list.some((word) => present.has(word)));
    const count = (list) => tokens.filter((token) => list.includes(token)).length;
    const trigrams = tokens.slice(2).map((token, i) => `${tokens[i]} ${tokens[i + 1]} ${token}`);
    const doubled = tokens.slice(1).filter((token, i) => token === tokens[i]).length;
    const repeats = Math.max(0, trigrams.length - new Set(trigrams).size - 2) + doubled;
    const greeted = GREETINGS.some((word) => tokens.slice(0, 2).includes(word));
    const others = [...this.days, ...this.names, ...this.items].filter(
      (word) => ![request.day, request.name, request.item].includes(word),
    );
    return {
      greets: Number(greeted && tokens.slice(0, 4).includes(request.name)),
      courtesy: Math.min(2, this.courtesy.filter((word) => present.has(word)).length),
      item: has([request.item]),
      day: has([request.day]),
      act: has(this.intents[request.intent].keywords),
      wrong_slot: has(others),
      rude: has(this.rude),
      off_topic: has(this.offTopic),
      evasive: has(this.evasive),
      short: Number(tokens.length < 7),
      words_over_24: Math.max(0, tokens.length - 24),
      repeats: Math.min(6, repeats),
      gush_over_1: Math.max(0, count(this.gush) - 1),
      unfinished: Number(tokens.length >= this.maxNewTokens),
    };
  }

  /** What a reader may look for in a reply: the features, and what the gold utility does not see. */
  counted(prompt, completion) {
    const tokens = words(completion);
    const { short, unfinished, ...features } = this.features(prompt, completion);
    const count = (list) => tokens.filter((token) => list.includes(token)).length;
    return { words: tokens.length, exclamation_marks: count(["!"]), formal: count(this.formal), ...features };
  }

  /** The gold utility of a reply. Nothing that is trained may read it. */
  utility(prompt, completion) {
    const counted = this.features(prompt, completion);
    const total = Object.entries(this.weights).reduce(
      (sum, [name, weight]) => sum + weight * counted[name],
      0,
    );
    return Math.max(this.range[0], Math.min(this.range[1], total));
  }
}
