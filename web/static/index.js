// The box for packages: asks while somebody types, and shows what each name is.

import { ask } from "./ask.js";
import { arrange, exchange, isCommand, names, replaceCommand } from "./chips.js";
import "./complete.js";
import { clientCommands } from "./commands.js";
import { showPrice } from "./price.js";
import { element, shown } from "./text.js";

const QUIET = 400; // milliseconds without a key before the registry is asked
const SLOW = 8000; // milliseconds after which the page says why it takes so long

const form = document.getElementById("ask");
const input = document.getElementById("packages");
const status = document.getElementById("status");
const answer = document.getElementById("answer");
const problem = document.getElementById("answer-error");
const notice = document.getElementById("notice");
const search = document.getElementById("search-link");
const list = document.getElementById("result-packages");
const commands = document.getElementById("commands");

let timer = null;
let asking = null;
let asked = typed();

function typed() {
  return isCommand() ? input.value.trim() : names().join(" ");
}

async function lookUp() {
  clearTimeout(timer);
  const question = typed();
  if (question === asked) return;
  asked = question;
  asking?.abort();
  showPrice(null);
  if (!question) {
    answer.hidden = true;
    status.textContent = "";
    remember();
    return;
  }
  const mine = (asking = new AbortController());
  status.textContent = "Looking them up …";
  const slow = setTimeout(() => {
    status.textContent = "Still looking them up: the first look-up in a revision takes longer …";
  }, SLOW);
  answer.setAttribute("aria-busy", "true");
  try {
    const data = await ask(`/api/packages?names=${encodeURIComponent(question)}`, mine.signal);
    data.packages ??= [];
    // It comes late when something else is typed already.
    if (mine.signal.aborted || question !== typed()) return;
    const others = isCommand() && names().length;
    if (isCommand() && data.packages.length) replaceCommand(data.packages.map((each) => each.name));
    if (others) return lookUp();
    arrange(data.packages);
    // After an error, the same names can be asked for again.
    asked = data.error ? "" : typed();
    clearTimeout(timer);
    show(data);
    remember();
  } catch (error) {
    if (error.name === "AbortError") return;
    asked = "";
    status.textContent = "The registry does not answer. Press Check to try again.";
  } finally {
    clearTimeout(slow);
    if (asking === mine) answer.removeAttribute("aria-busy");
  }
}

// What is in the address can be passed on.
function remember() {
  const query = typed() ? `?packages=${encodeURIComponent(typed()).replaceAll("%20", "+")}` : "";
  history.replaceState(null, "", `/${query}`);
  search.href = `/search${query}`;
}

function show(data) {
  const packages = data.packages;
  status.textContent = data.error
    ? "Press Check to try again."
    : data.commands
      ? "All of them are there."
      : "Some packages were not found.";
  problem.hidden = !data.error;
  problem.textContent = shown(data.error ?? "");
  notice.hidden = !data.notice;
  notice.textContent = shown(data.notice ?? "");
  list.replaceChildren(...packages.map(described));
  commands.hidden = !data.commands;
  clientCommands(commands.querySelector(".clients"), data.clients ?? []);
  answer.hidden = false;
  showPrice(data.commands ? data.image : null);
}

function described(each) {
  const good = each.status === "found" || each.status === "meta";
  const item = element("li", { "data-status": each.status, "data-name": each.name },
    element("span", { class: "badge", "data-state": good ? "found" : "problem" }, each.status.replaceAll("-", " ")),
    " ", element("code", {}, element("bdi", {}, each.name)), " ");
  if (each.status === "found") {
    const facts = [
      each.attribute === each.name ? "" : each.attribute,
      each.outputs.join() === "out" ? "" : `outputs ${each.outputs.join(", ")}`,
      each.platforms?.length ? `for ${each.platforms.join(", ")}` : "",
    ].filter(Boolean).join("; ");
    item.append(
      element("strong", {}, element("bdi", {}, `${each.pname} ${each.version}`)), " ",
      element("bdi", {}, each.description), " ",
      facts ? element("span", { class: "quiet small" }, `(${facts})`) : "");
    for (const [label, reason] of Object.entries(each.missing_platforms ?? {})) {
      item.append(" ", element("span", { class: "small" }, `Not for ${label}: `, element("bdi", {}, shown(reason)), "."));
    }
    return item;
  }
  item.append(element("bdi", {}, each.message));
  const near = each.candidates ?? [];
  if (near.length) {
    const span = element("span", { class: "near" }, ". Near: ");
    near.forEach((name, at) => {
      if (at) span.append(", ");
      const words = names().map((word) => (word === each.name ? name : word));
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

for (const change of ["input", "names"]) {
  input.addEventListener(change, () => {
    clearTimeout(timer);
    timer = setTimeout(lookUp, QUIET);
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  lookUp();
});

// A near name takes the place of the one that was typed.
list.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("a[data-exchange]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  exchange(link.dataset.exchange, link.dataset.for);
  input.focus();
  lookUp();
});
