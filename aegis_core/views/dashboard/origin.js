// Part of the views of tiles, charts and tables: the button that asks where something comes from.
// The tiles, which know the queries and the models, hear it and open the dialog.

function fromButton(part, title) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "aegis-from";
  made.textContent = "i";
  made.setAttribute("aria-label", `Where from: ${title}`);
  made.onclick = () => made.dispatchEvent(
    new CustomEvent("aegis-where-from", { bubbles: true, detail: { part, title } }),
  );
  return made;
}
