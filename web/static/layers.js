// The list of an image's layers: shows another selection or order of them without loading the page.

const form = document.getElementById("layers-form");

let asking = null;

async function show() {
  asking?.abort();
  const mine = (asking = new AbortController());
  const place = new URL(form.action);
  place.search = new URLSearchParams(new FormData(form));
  try {
    const answer = await fetch(place, { signal: mine.signal, headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`the registry answered ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["layers-list", "layers-found"]) {
      document.getElementById(id).replaceWith(page.getElementById(id));
    }
    // The address can be passed on.
    history.replaceState(null, "", place);
  } catch (error) {
    // The form as browsers send it tells what is wrong.
    if (error.name !== "AbortError") form.submit();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  show();
});
form.addEventListener("change", show);
