// The sums world: prompts, tokens and the verifier. Compare worlds/sums.py.

const SPECIAL = ["<pad>", "<eos>", "<unk>"];
const VOCABULARY = [...SPECIAL, ..."0123456789+=<>,"];
const INDEX = new Map(VOCABULARY.map((character, token) => [character, token]));

export const END = INDEX.get("<eos>");

export const encode = (text) => [...text].map((character) => INDEX.get(character) ?? INDEX.get("<unk>"));

export const decode = (tokens) =>
  tokens
    .filter((token) => token >= SPECIAL.length)
    .map((token) => VOCABULARY[token])
    .join("");

/** The two numbers of a prompt such as "4821+377=". */
export function parse(prompt) {
  const match = /^(0|[1-9][0-9]{0,8})\+(0|[1-9][0-9]{0,8})=$/.exec(prompt.trim());
  if (!match) {
    throw new Error(`prompt is "${prompt}"; expected a prompt of the sums world, such as "4821+377="`);
  }
  return [Number(match[1]), Number(match[2])];
}

export function answer(prompt) {
  const [a, b] = parse(prompt);
  return String(a + b);
}

/** The text that counts as the answer: what follows the last ">". */
export const answered = (completion) => completion.slice(completion.lastIndexOf(">") + 1);

/** 1 if the answer is exactly right, else 0. */
export const isRight = (prompt, completion) => Number(answered(completion) === answer(prompt));

/** The same as a reward function. */
export const strictVerifier = (prompts, completions) =>
  completions.map((completion, i) => isRight(prompts[i], completion));

const heldOut = (a, b) => (a + 3 * b) % 11 === 0;

/** `n` prompts; those held out share no sum with the others. */
export function prompts(n, uniform, ofHeldOut = false, digits = [2, 4]) {
  const below = (count) => Math.floor(uniform() * count);
  const number = () => {
    const size = digits[0] + below(digits[1] - digits[0] + 1);
    const low = size === 1 ? 0 : 10 ** (size - 1);
    return low + below(10 ** size - low);
  };
  const found = [];
  while (found.length < n) {
    const [a, b] = [number(), number()];
    if (heldOut(a, b) === ofHeldOut) found.push(`${a}+${b}=`);
  }
  return found;
}
