// Completes the last word of the box for packages: a combobox with a list, as the ARIA Authoring
// Practices describe it.  The names come from the list of packages that the registry has.

import { ask } from "./ask.js";
import { add, isCommand } from "./chips.js";
import { element, shown } from "./text.js";

const QUIET = 120; // milliseconds without a key before the registry is asked
const LEAST = 2; // characters of a word that is completed

const input = document.getElementById("packages");
const list = element("ul", {
  id: "suggestions",
  class: "suggestions",
  role: "listbox",
  "aria-label": "Packages",
  hidden: true,
});
const note = element("p", { id: "suggestions-note", class: "small quiet", role: "status" });
let timer = null;
let asking = null;
let active = -1;

input.parentElement.append(list);
document.getElementById("packages-help").before(note);
input.setAttribute("role", "combobox");
input.setAttribute("aria-autocomplete", "list");
input.setAttribute("aria-controls", list.id);
input.setAttribute("aria-expanded", "false");

function lastWord() {
  return input.value.slice(0, input.selectionStart).match(/[^\s,;/]*$/)[0];
}

function close() {
  clearTimeout(timer);
  asking?.abort();
  list.hidden = true;
  list.replaceChildren();
  select(-1);
  input.setAttribute("aria-expanded", "false");
}

async function suggest() {
  asking?.abort();
  const word = lastWord();
  if (word.length < LEAST || isCommand()) return close();
  const mine = (asking = new AbortController());
  try {
    const found = await ask(`/api/search?limit=8&q=${encodeURIComponent(word)}`, mine.signal);
    if (mine.signal.aborted || word !== lastWord()) return;
    show(found);
  } catch {
    // A list that does not come is no fault of what was typed: Check still works.
  }
}

// What was found, and in which revision; it stays when the list is closed, so that nothing moves
// below a pointer.
function describe(found, count) {
  if (found.error) return found.error;
  if (!found.ready) return "Names are not completed yet: the packages are still being listed. Type whole names.";
  const packages = count === 1 ? "1 package" : `${count} packages`;
  const next = found.next_revision ? ` Those of ${found.next_revision} are not listed yet.` : "";
  return `${packages} to choose from, in ${found.revision}.${next}`;
}

function show(found) {
  const packages = (found.packages ?? []).filter((each) => each.served);
  note.textContent = shown(describe(found, packages.length));
  if (!packages.length) return close();
  list.replaceChildren(...packages.map((each, at) =>
    element("li", { id: `suggestion-${at}`, role: "option", "aria-selected": "false", "data-name": each.attribute },
      element("code", {}, element("bdi", {}, each.attribute)), " ",
      element("span", { class: "quiet small" }, element("bdi", {}, shown(each.version))), " ",
      element("bdi", { class: "small" }, shown(each.description)))));
  select(-1);
  list.hidden = false;
  input.setAttribute("aria-expanded", "true");
}

function select(at) {
  active = at;
  for (const [index, option] of [...list.children].entries()) {
    option.setAttribute("aria-selected", String(index === at));
  }
  if (at < 0) return input.removeAttribute("aria-activedescendant");
  input.setAttribute("aria-activedescendant", list.children[at].id);
  list.children[at].scrollIntoView({ block: "nearest" });
}

function choose(option) {
  const end = input.selectionStart;
  const start = end - lastWord().length;
  input.setRangeText("", start, end, "end");
  close();
  input.focus();
  add([option.dataset.name]);
}

input.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(suggest, QUIET);
});

input.addEventListener("keydown", (event) => {
  if (list.hidden) return;
  const count = list.children.length;
  if (event.key === "ArrowDown") select((active + 1) % count);
  else if (event.key === "ArrowUp") select((active <= 0 ? count : active) - 1);
  else if (event.key === "Home" && active >= 0) select(0);
  else if (event.key === "End" && active >= 0) select(count - 1);
  else if (event.key === "Enter" && active >= 0) choose(list.children[active]);
  else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
});

input.addEventListener("blur", close);

// The focus stays in the box.
list.addEventListener("mousedown", (event) => event.preventDefault());
list.addEventListener("click", (event) => {
  const option = event.target instanceof Element && event.target.closest("[role=option]");
  if (option) choose(option);
});
