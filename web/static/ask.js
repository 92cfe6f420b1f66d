// Asks the registry for JSON.  Errors that come as a line of text, as those of limits do, and pages
// of something in between, become errors of the same form.

export async function ask(url, signal) {
  const response = await fetch(url, { signal, headers: { Accept: "application/json" } });
  const type = response.headers.get("Content-Type") ?? "";
  if (type.startsWith("application/json")) return response.json();
  const line = type.startsWith("text/plain") ? (await response.text()).split("\n")[0] : "";
  return { error: line || `the answer was ${response.status}` };
}
