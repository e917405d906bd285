// Reads {name: source} and prints, for each module, {error}, or {functions, tokens, exported}: its functions,
// each as {name, first, last, top, code} with its lines, whether it stands at the top level, and its
// parameters and body without spaces; its tokens; and whether it has a default export. A function without a
// name has the name "". Runs in Node.js with --expose-internals, which lends its own parser.

const { parse } = require("internal/deps/acorn/acorn/dist/acorn");

function described(node, name, top, source) {
  const code = [...node.params, node.body].map(({ start, end }) => source.slice(start, end)).join();
  const lines = { first: node.loc.start.line, last: node.loc.end.line };
  return { name: node.id?.name ?? name, ...lines, top, code: code.replace(/\s+/g, "") };
}

function functionsOf(tree, source) {
  const found = [];
  const visit = (node, name, top) => {
    const isFunction = /Function/.test(node.type);
    if (isFunction) found.push(described(node, name, top, source));
    const within = top && !isFunction && !node.type.endsWith("Statement");
    const given = (node.type === "VariableDeclarator" && node.id.name) || "";
    for (const child of Object.values(node).flat()) if (child?.type) visit(child, given, within);
  };
  visit(tree, "", true);
  return found;
}

function read(source) {
  try {
    const seen = [];
    const options = { ecmaVersion: "latest", sourceType: "module", locations: true, onToken: seen };
    const tree = parse(source, options);
    const tokens = seen.map(({ start, end }) => source.slice(start, end));
    const exported = tree.body.some((node) => node.type === "ExportDefaultDeclaration");
    return { functions: functionsOf(tree, source), tokens, exported };
  } catch (error) {
    return { error: error.message };
  }
}

const sources = JSON.parse(require("fs").readFileSync(0, "utf8"));
const results = Object.entries(sources).map(([name, source]) => [name, read(source)]);
console.log(JSON.stringify(Object.fromEntries(results)));
