// Buttons that copy the blocks of the documentation.  Of a session on a console the
// commands are copied, without prompts and output.

import "./site.js";
import { element } from "./text.js";

for (const [index, pre] of document.querySelectorAll("main div.highlight pre").entries()) {
  pre.id ||= `block-${index + 1}`;
  if (pre.closest(".highlight-console")) {
    const typed = commands(pre.textContent);
    if (typed === "") continue;
    pre.dataset.copied = typed;
  }
  const button = element(
    "button",
    { type: "button", class: "plain", "data-copy": pre.id, "aria-label": `Copy block ${index + 1}` },
    "Copy",
  );
  pre.parentElement.append(button);
}

// The lines after the prompts of a user and of root, and what continues them.
function commands(session) {
  const typed = [];
  let continued = false;
  for (const line of session.split("\n")) {
    const prompt = /^[$#] /.test(line);
    if (prompt || continued) {
      typed.push(prompt ? line.slice(2) : line);
      continued = line.endsWith("\\");
    }
  }
  return typed.join("\n");
}
