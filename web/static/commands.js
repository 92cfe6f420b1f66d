// The commands for an image, by client: opens those of the client that was chosen last.

import { element, reachable } from "./text.js";

const CHOSEN = "client";

// Browsers may forbid a page to keep anything.
function chosen() {
  try {
    return localStorage.getItem(CHOSEN);
  } catch {
    return null;
  }
}

function open(group) {
  const client = chosen();
  const all = [...group.querySelectorAll("details[data-client]")];
  if (!all.some((each) => each.dataset.client === client)) return;
  for (const each of all) each.open = each.dataset.client === client;
}

// Puts the commands for another image in the place of those that are shown.
export function clientCommands(group, clients) {
  group.replaceChildren(...clients.map(({ client, title, commands }, at) =>
    element("details", { name: "client", "data-client": client, open: at === 0 },
      element("summary", {}, title),
      ...commands.flatMap((command) => {
        const id = `${client}-${command.key}`;
        return [
          element("p", { class: "small" }, command.title),
          element("div", { class: "command" },
            element("pre", {}, element("code", { id }, reachable(command.text))),
            element("button", { type: "button", class: "plain", "data-copy": id, "aria-label": `Copy: ${title}, ${command.title}` }, "Copy")),
        ];
      }))));
  open(group);
}

for (const group of document.querySelectorAll(".clients")) open(group);

document.addEventListener("click", (event) => {
  const summary = event.target instanceof Element && event.target.closest(".clients summary");
  if (!summary || summary.parentElement.open) return;
  try {
    localStorage.setItem(CHOSEN, summary.parentElement.dataset.client);
  } catch {
    // The choice then holds for this page.
  }
});
