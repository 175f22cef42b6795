// Light or dark: as the system says, or as the switch says until the page is closed. Nothing is stored.

const SCHEMES = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

/** Make the button switch between the schemes, and let the page begin with the system's. */
export function install(button) {
  const apply = (scheme) => {
    document.documentElement.dataset.scheme = scheme;
    button.setAttribute("aria-label", `Colours: ${scheme === "auto" ? "as the system" : scheme}. Switch.`);
    button.title = `Colours: ${scheme === "auto" ? "as the system" : scheme}`;
    for (const listener of listeners) listener();
  };
  button.addEventListener("click", () => {
    apply(SCHEMES[(SCHEMES.indexOf(document.documentElement.dataset.scheme) + 1) % SCHEMES.length]);
  });
  dark.addEventListener("change", () => apply(document.documentElement.dataset.scheme));
  apply("auto");
}

/** Call `listener` whenever colours have changed: canvases have to be drawn anew. */
export const onChange = (listener) => listeners.push(listener);

/** Return a colour of the style sheet as it is in the present scheme, for canvases. */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
