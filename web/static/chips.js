// The names that are chosen in the box for packages, as chips before the field for the next one.
// The text field stays what one types in; a hidden field has the names for the form.

import { announce, element } from "./text.js";

const input = document.getElementById("packages");
const form = input.form;
const field = element("input", { type: "hidden", id: "chosen", name: input.name });
const list = element("ul", { id: "chips", class: "chips", "aria-label": "Chosen packages: Delete removes one", hidden: true });

const SEPARATORS = /[\s,;/]+/;

// A command that was pasted: the registry finds the names in it.
const COMMAND = /^\s*(\$ |# |sudo\s|docker\s|podman\s|nerdctl\s|skopeo\s|nix\s|nix-shell\s)/;

export const isCommand = () => COMMAND.test(input.value);

const words = (text) => text.split(SEPARATORS).filter(Boolean);
const chips = () => [...list.querySelectorAll("button")];
const chosen = () => chips().map((chip) => chip.dataset.name);

// The chosen names, and the one that is being typed.
export function names() {
  return [...new Set([...chosen(), ...(isCommand() ? [] : words(input.value))])];
}

// Chooses names; those that are chosen already stay where they are.
export function add(added) {
  const fresh = [...new Set(added)].filter((name) => !chosen().includes(name));
  list.append(...fresh.map((name) => element("li", {}, chip(name))));
  changed(fresh.length ? `${fresh.join(", ")} added` : "");
}

// Puts a name in the place of another one, be that a chip or still text.
export function exchange(old, name) {
  const place = chips().find((each) => each.dataset.name === old);
  if (!place) {
    input.value = words(input.value).filter((word) => word !== old).join(" ");
    return add([name]);
  }
  if (chosen().includes(name)) place.parentElement.remove();
  else place.replaceWith(chip(name));
  changed(`${name} instead of ${old}`);
}

// Takes the names of a command that was looked up in the place of its text.
export function replaceCommand(found) {
  input.value = "";
  add(found);
}

// Puts chips in the order of the image's name, and tells those that were not found apart.
export function arrange(packages) {
  const focused = document.activeElement;
  const order = packages.map((each) => each.name);
  const at = (each) => (order.includes(each.dataset.name) ? order.indexOf(each.dataset.name) : order.length);
  const sorted = chips().sort((one, other) => at(one) - at(other));
  if (sorted.some((each, place) => each !== chips()[place])) list.append(...sorted.map((each) => each.parentElement));
  for (const each of sorted) {
    const status = packages.find(({ name }) => name === each.dataset.name)?.status;
    each.dataset.state = status === undefined || status === "found" || status === "meta" ? "found" : "problem";
  }
  if (list.contains(focused)) focused.focus();
  field.value = names().join(" ");
}

function chip(name) {
  const made = element("button", { type: "button", class: "chip", "aria-label": `Remove ${name}`, tabindex: "-1" },
    element("bdi", {}, name), element("span", { "aria-hidden": "true" }, " ×"));
  made.dataset.name = name;
  return made;
}

function remove(gone) {
  const all = chips();
  const at = all.indexOf(gone);
  const next = document.activeElement === input ? input : all[at + 1] ?? all[at - 1] ?? input;
  gone.parentElement.remove();
  changed(`${gone.dataset.name} removed`);
  go(next);
}

// One chip at a time is reached by Tab, the others by arrow keys.
function go(target) {
  if (target !== input) {
    for (const each of chips()) each.tabIndex = each === target ? 0 : -1;
  }
  target.focus();
}

function changed(message) {
  const all = chips();
  list.hidden = !all.length;
  if (all.length && !all.some((each) => each.tabIndex === 0)) all.at(-1).tabIndex = 0;
  input.placeholder = all.length ? "" : placeholder;
  if (message) announce(message);
  input.dispatchEvent(new Event("names"));
}

// Whole words become chips; the one before the cursor may not be finished.
function takeWords(unfinished) {
  if (isCommand()) return;
  const typed = input.value.split(SEPARATORS);
  const rest = unfinished ? typed.pop() : "";
  const whole = typed.filter(Boolean);
  if (!whole.length) return;
  input.value = rest;
  add(whole);
}

input.addEventListener("input", (event) => {
  if (!event.isComposing && SEPARATORS.test(input.value)) takeWords(input.selectionStart === input.value.length);
  field.value = names().join(" ");
});
input.addEventListener("names", () => { field.value = names().join(" "); });
form.addEventListener("submit", () => takeWords(false));

input.addEventListener("keydown", (event) => {
  const last = chips().at(-1);
  if (!last || event.isComposing || input.selectionStart || input.selectionEnd) return;
  // A key that is held down deletes text, and stops before the chips.
  if (event.key === "Backspace" && !event.repeat) remove(last);
  else if (event.key === "ArrowLeft") go(last);
  else return;
  event.preventDefault();
});

list.addEventListener("keydown", (event) => {
  const all = chips();
  const at = all.indexOf(document.activeElement);
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") go(all[Math.max(0, at - 1)]);
  else if (event.key === "ArrowRight") go(all[at + 1] ?? input);
  else if (event.key === "Home") go(all[0]);
  else if (event.key === "End" || event.key === "Escape") go(input);
  else if (event.key === "Delete" || event.key === "Backspace") remove(all[at]);
  else return;
  event.preventDefault();
});

list.addEventListener("click", (event) => {
  const gone = event.target instanceof Element && event.target.closest("button");
  if (gone) remove(gone);
});

// Beside the field is still the field, for a pointer.
input.parentElement.addEventListener("click", (event) => {
  if (event.target === event.currentTarget) input.focus();
});

const placeholder = input.placeholder;
input.removeAttribute("name");
input.before(list);
form.append(field);

// The page came with its names: those of a command were found by the registry.
const found = [...document.querySelectorAll("#result-packages > li")].map((each) => each.dataset);
const before = isCommand() ? found.map((each) => each.name) : words(input.value);
if (before.length) {
  input.value = "";
  list.append(...[...new Set(before)].map((name) => element("li", {}, chip(name))));
  arrange(found);
}
changed("");
