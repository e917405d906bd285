// Pictures: scales and axes, the marks of a plot, bars and legends.

const picture = (width, height, attributes = {}) =>
  svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${width} ${height}`, role: "img", ...attributes });

// Puts marks, in lists of any depth, into a plot, and says in words what it shows.
function drawInto(plot, description, ...marks) {
  plot.replaceChildren(...marks.flat(Infinity));
  plot.setAttribute("aria-label", description);
}

// ---------------------------------------------------------------- marks

const line = (kind, [x1, y1], [x2, y2], attributes = {}) =>
  svg("line", { class: kind, x1, y1, x2, y2, ...attributes });
const circle = (kind, [cx, cy], r, attributes = {}) =>
  svg("circle", { class: kind, cx, cy, r, ...attributes });
const rect = (kind, [x, y], [width, height], attributes = {}) =>
  svg("rect", { class: kind, x, y, width, height, ...attributes });

// Words at a place; `anchor` is start, middle or end.
const text = (kind, [x, y], anchor, words, attributes = {}) =>
  svg("text", { x, y, "text-anchor": anchor, class: kind, ...attributes }, words);

// The way through points, as the attribute `d` of a path.
const through = (points, digits = 2) =>
  points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(digits)},${y.toFixed(digits)}`).join("");
const curve = (kind, points, attributes = {}) =>
  svg("path", { class: kind, d: through(points), ...attributes });

// ---------------------------------------------------------------- scales and axes

// The linear map from values to places on the page; `back` goes the other way.
function linear([low, high], [start, end]) {
  const scale = (value) => start + ((end - start) * (value - low)) / (high - low);
  scale.back = (place) => low + ((place - start) / (end - start)) * (high - low);
  return scale;
}

// From the smallest to the largest, with a margin that is a share of their distance.
function extent(values, margin) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = margin * (high - low || 1);
  return [low - pad, high + pad];
}

// Round numbers for an axis from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return range(last - first + 1).map((i) => (first + i) * step);
}

const gridKind = (tick) => (Math.abs(tick) < 1e-9 ? "rlhf-zero" : "rlhf-grid");

// Lines of the grid at ticks of x from top to bottom, and their numbers below.
const xGrid = (x, marks, [top, bottom]) =>
  marks.map((tick) => line("rlhf-grid", [x(tick), top], [x(tick), bottom]));
const xNumbers = (x, marks, y, words = short) =>
  marks.map((tick) => text("rlhf-tick", [x(tick), y], "middle", words(tick)));

// Lines of the grid at ticks of y from left to right, with their numbers before them. With `zero`, the line
// at 0 stands out.
const yAxis = (y, marks, [left, right], { words = short, gap = 6, zero = false } = {}) =>
  marks.map((tick) => [
    line(zero ? gridKind(tick) : "rlhf-grid", [left, y(tick)], [right, y(tick)]),
    text("rlhf-tick", [left - gap, y(tick) + 4], "end", words(tick)),
  ]);

const axisTitle = (place, anchor, words) => text("rlhf-axis", place, anchor, words);

// ---------------------------------------------------------------- bars and legends

// A bar in a table, as wide as a share of its cell.
const bar = (kind, share) => html("span", { class: kind, style: `width:${(100 * share).toFixed(2)}%` });

// A bar in a table to the left or right of its middle; `most` fills a half.
function sidedBar(kind, value, most) {
  const left = (50 + Math.min(0, (50 * value) / most)).toFixed(2);
  const width = ((50 * Math.abs(value)) / most).toFixed(2);
  return html("span", { class: kind }, html("span", { style: `left:${left}%;width:${width}%` }));
}

// A patch of colour in a legend, alone or with words that stay on its line.
const key = (kind = "") => html("span", { class: `rlhf-key ${kind}`.trim() });
const pair = (kind, words) => html("span", { class: "rlhf-pair" }, key(kind), words);
