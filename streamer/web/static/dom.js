// Elements, made by DOM calls alone. Text becomes text nodes: nothing that a model wrote can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an HTML element; `on…` attributes are listeners, `false`, `null` and `undefined` are left out. */
export function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === false || child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Put `children` in the place of what an element holds. */
export function fill(element, ...children) {
  const fragment = document.createDocumentFragment();
  append(fragment, children);
  element.replaceChildren(fragment);
  return element;
}

/** Change the text of an element, only if it is another one: screen readers and layout are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Change an attribute, only if it is another one. */
export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/**
 * Make the children of `parent` the elements of `items`, keeping those that are there already.
 *
 * `key` names an item; `make` builds its element; `update`, if given, brings a kept one up to date.
 */
export function reconcile(parent, items, key, make, update = () => {}) {
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = kept.get(name);
    if (element) {
      kept.delete(name);
      update(element, item);
    } else {
      element = make(item);
      element.dataset.key = name;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of kept.values()) element.remove();
}
