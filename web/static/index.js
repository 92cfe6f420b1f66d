// The box for packages: asks while somebody types, and shows what each name is.

import "./complete.js";
import { clientCommands } from "./commands.js";
import { element, shown } from "./text.js";

const QUIET = 400; // milliseconds without a key before the registry is asked

const form = document.getElementById("ask");
const input = document.getElementById("packages");
const status = document.getElementById("status");
const answer = document.getElementById("answer");
const problem = document.getElementById("answer-error");
const list = document.getElementById("result-packages");
const commands = document.getElementById("commands");

let timer = null;
let asking = null;
let asked = input.value.trim();

// A command that was pasted: the registry finds the names in it.
const COMMAND = /^\s*(\$ |# |sudo\s|docker\s|podman\s|nerdctl\s|skopeo\s|nix\s|nix-shell\s)/;

function typed() {
  if (COMMAND.test(input.value)) return input.value.trim();
  return input.value.trim().split(/[\s,;/]+/).filter(Boolean).join(" ");
}

async function ask() {
  clearTimeout(timer);
  const names = typed();
  if (names === asked) return;
  asked = names;
  asking?.abort();
  if (!names) {
    answer.hidden = true;
    status.textContent = "";
    return;
  }
  const mine = (asking = new AbortController());
  status.textContent = "Looking them up …";
  answer.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(`/api/packages?names=${encodeURIComponent(names)}`, {
      signal: mine.signal,
      headers: { Accept: "application/json" },
    });
    const data = await response.json();
    if (COMMAND.test(input.value) && data.image) {
      input.value = data.image.replaceAll("/", " ");
      asked = typed();
    }
    show(data);
    // What is in the address can be passed on.
    history.replaceState(null, "", `/?packages=${encodeURIComponent(asked).replaceAll("%20", "+")}`);
  } catch (error) {
    if (error.name === "AbortError") return;
    asked = "";
    status.textContent = "The registry does not answer. Press Check to try again.";
  } finally {
    if (asking === mine) answer.removeAttribute("aria-busy");
  }
}

function show(data) {
  const packages = data.packages ?? [];
  status.textContent = data.error
    ? ""
    : data.commands
      ? "All of them are there."
      : "Some packages were not found.";
  problem.hidden = !data.error;
  problem.textContent = shown(data.error ?? "");
  list.replaceChildren(...packages.map(described));
  commands.hidden = !data.commands;
  clientCommands(commands.querySelector(".clients"), data.clients ?? []);
  answer.hidden = false;
}

function described(each) {
  const good = each.status === "found" || each.status === "meta";
  const item = element("li", { "data-status": each.status, "data-name": each.name },
    element("span", { class: "badge", "data-state": good ? "found" : "problem" }, each.status.replaceAll("-", " ")),
    " ", element("code", {}, element("bdi", {}, each.name)), " ");
  if (each.status === "found") {
    const others = each.outputs.join() === "out" ? "" : `, outputs ${each.outputs.join(", ")}`;
    const platforms = each.platforms?.length ? `; for ${each.platforms.join(", ")}` : "";
    item.append(
      element("strong", {}, element("bdi", {}, `${each.pname} ${each.version}`)), " ",
      element("bdi", {}, each.description), " ",
      element("span", { class: "quiet small" }, `(${each.attribute}${others}${platforms})`));
    for (const [label, reason] of Object.entries(each.missing_platforms ?? {})) {
      item.append(" ", element("span", { class: "small" }, `Not for ${label}: `, element("bdi", {}, shown(reason)), "."));
    }
    return item;
  }
  item.append(element("bdi", {}, each.message));
  const near = each.candidates ?? [];
  if (near.length) {
    const span = element("span", { class: "near" }, " Near: ");
    near.forEach((name, at) => {
      if (at) span.append(", ");
      const words = typed().split(" ").map((word) => (word === each.name ? name : word));
      span.append(element("a", {
        href: `/?packages=${words.map(encodeURIComponent).join("+")}`,
        "data-exchange": each.name,
        "data-for": name,
      }, element("bdi", {}, name)));
    });
    item.append(span);
  }
  return item;
}

input.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, QUIET);
});

input.addEventListener("chosen", ask);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});

// A near name takes the place of the one that was typed.
list.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("a[data-exchange]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  input.value = typed().split(" ").map((word) => (word === link.dataset.exchange ? link.dataset.for : word)).join(" ");
  input.focus();
  ask();
});
