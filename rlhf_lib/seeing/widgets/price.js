// β, turned by hand while a run goes on. Shared by the dashboard and the training in a page.

const LOWEST = 1e-3; // of the slider, on a log scale; its first position is 0
const HIGHEST = 1;
const POSITIONS = 60;
const BETA = {
  positions: [0, POSITIONS],
  toValue(position) {
    if (position === 0) return 0;
    return Number((LOWEST * (HIGHEST / LOWEST) ** ((position - 1) / (POSITIONS - 1))).toPrecision(2));
  },
  toPosition(beta) {
    if (beta <= 0) return 0;
    const place = ((POSITIONS - 1) * Math.log(beta / LOWEST)) / Math.log(HIGHEST / LOWEST);
    return 1 + clamp(place, [0, POSITIONS - 1]);
  },
};
const SETTLED = 120; // ms after which a β that is turned is asked for

// β: a slider, and a field for what Python is to judge.
function betaControl(ask) {
  let timer = 0;
  const turn = (value, shown) => {
    clearTimeout(timer);
    field.value = shown;
    timer = setTimeout(() => ask({ kind: "beta", value }), SETTLED);
  };
  const knob = slider({
    name: "beta",
    label: "β",
    hint: "price of a nat of KL, from the next step on; log scale, 0 at the left end",
    scale: BETA,
    describe: (beta) => `β = ${short(beta)}`,
    onChange: (beta) => turn(beta, short(beta)),
  });
  const field = textField({ control: "beta-field", label: "β as a number, 0 or more" });
  field.addEventListener("change", () =>
    turn(field.value.trim().replace("−", "-").replace(",", "."), field.value),
  );
  return {
    element: row("β", "of the next step", knob.element, field),
    show(beta, refused) {
      knob.show(beta);
      if (document.activeElement !== field || !refused) field.value = short(beta);
      field.setAttribute("aria-invalid", String(refused));
    },
    stop: () => clearTimeout(timer),
  };
}
