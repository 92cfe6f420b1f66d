// How pages put text, numbers and times on the screen.  Whatever comes from elsewhere is
// put in as text, never as markup.

// What cannot be seen, or turns the direction of what follows, becomes an escape, as it
// does in pages that the server makes.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;

export function shown(text) {
  return String(text).replace(HIDDEN, (character) => {
    if ("\n\t\u200c\u200d".includes(character)) return character;
    const code = character.codePointAt(0);
    if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
    if (code < 0x10000) return `\\u${code.toString(16).padStart(4, "0")}`;
    return `\\U${code.toString(16).padStart(8, "0")}`;
  });
}

// An element: attributes that are null or false are left out; children are elements or text.
export function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(key, value === true ? "" : shown(value));
    }
  }
  for (const child of children) {
    if (child === null || child === undefined) continue;
    made.append(child instanceof Node ? child : shown(child));
  }
  return made;
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function size(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  if (unit === 0) return `${Math.round(value)} B`;
  const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function duration(seconds) {
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} min`;
}

// The time since a build began: 0:03.2
export function stopwatch(seconds) {
  const tenths = Math.round(seconds * 10);
  const pad = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor(tenths / 600);
  const rest = `${pad(Math.floor((tenths % 600) / 10))}.${tenths % 10}`;
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${rest}`;
}

const SPANS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

// How long ago a time was; the exact one is in the element's title.
export function relative(time) {
  const seconds = Math.round((Date.now() - Date.parse(time.dateTime)) / 1000);
  if (!Number.isFinite(seconds)) return;
  time.title ||= `${new Date(time.dateTime).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const [unit, length] = SPANS.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 1];
  const count = Math.trunc(Math.abs(seconds) / length);
  const text = `${count} ${unit}${count === 1 ? "" : "s"}`;
  time.textContent = Math.abs(seconds) < 10 ? "just now" : seconds > 0 ? `${text} ago` : `in ${text}`;
}

// What else there is to say of a build: other names of its image, and who waits for it.
export function notes(build) {
  const { also, clients, attempts } = build;
  const more = also.length > 3 ? ` and ${also.length - 3} more` : "";
  return [
    also.length ? ["also ", element("bdi", {}, also.slice(0, 3).join(", ")), more] : null,
    clients ? [`${clients} client${clients === 1 ? "" : "s"} waiting`] : null,
    attempts > 1 ? [`${attempts} attempts`] : null,
  ].filter(Boolean).flatMap((parts) => [element("span", { class: "note" }, ...parts), " "]);
}

// Puts the host that the browser has used in the place of the registry's own address, where its
// operator has not configured one: commands are for the machine that shows them.  Where the browser
// has come by HTTPS, clients need not be told that there is no TLS.
export function reachable(text) {
  const own = document.documentElement.dataset.address;
  if (!own) return text;
  const there = text.replaceAll(own, location.host);
  return location.protocol === "https:"
    ? there.replaceAll(/ (--(src-)?tls-verify=false|--insecure-registry|--plain-http)(?= )/g, "")
    : there;
}

// Says something to those who listen to the page.
export function announce(text) {
  let region = document.getElementById("announcer");
  if (!region) {
    region = element("div", { id: "announcer", class: "visually-hidden", role: "status" });
    document.body.append(region);
  }
  region.textContent = shown(text);
}
