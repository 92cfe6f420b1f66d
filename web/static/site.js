// What every page does: buttons that copy.  `data-copy` names the element whose text is
// copied, by its id, or its `data-copied` if it has that; without this script the buttons
// stay hidden.

import "./commands.js";
import { announce, reachable, relative } from "./text.js";

for (const code of document.querySelectorAll(".command code")) {
  const text = reachable(code.textContent);
  if (text !== code.textContent) code.textContent = text;
}

// A page that could not wait for all of its facts says after how many seconds it may have them.
const late = document.querySelector("[data-reload]");
if (late) setTimeout(() => location.reload(), late.dataset.reload * 1000);

const ages = () => document.querySelectorAll("time[datetime]:not([data-exact])").forEach(relative);
ages();
setInterval(ages, 30_000);

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element && event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  if (!source) return;
  const done = await copy(source);
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  announce(done ? "Copied" : "The text is selected: press Ctrl+C to copy it");
  setTimeout(() => { button.textContent = label; }, 2000);
});

// Browsers keep the clipboard for pages that came by HTTPS or from this machine; on others
// the text is selected for a person to copy.
async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.dataset.copied ?? source.textContent);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(source);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    try {
      return document.execCommand("copy");
    } catch {
      return false;
    }
  }
}
