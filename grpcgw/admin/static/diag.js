// Keeps the diagnostics page live: fetches its live part once a second and changes only what differs, so that scroll
// position, selection, open details and the filter stay. Elements marked data-keep belong to this script.
"use strict";

const PERIOD_MS = 1000;
const TIMEOUT_MS = 5000;

const live = document.getElementById("live");
const lost = document.getElementById("lost");
let lastAnswer = new Date();
let lastTotal = null;
let pause = null;
let busy = false;
let again = false;

// Make the children and attributes of `from` those of `to`. Children with the same data-key or id stay the same element,
// and stay in their place while their order does: moving an element would cost it the focus.
function morph(from, to) {
  morphAttributes(from, to);
  const wantedKeys = new Set([...to.children].map(keyOf));
  const keyed = new Map();
  for (const child of [...from.children]) {
    if (!keyOf(child)) continue;
    if (wantedKeys.has(keyOf(child))) keyed.set(keyOf(child), child);
    else child.remove();
  }
  let next = from.firstChild;
  const dropNext = () => {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  };
  for (const wanted of [...to.childNodes]) {
    const key = keyOf(wanted);
    if (keyed.has(key)) while (next && !keyOf(next)) dropNext();
    const match = key ? keyed.get(key) : next && !keyOf(next) && next.nodeName === wanted.nodeName ? next : null;
    if (!match) {
      from.insertBefore(document.importNode(wanted, true), next);
      continue;
    }
    if (match === next) next = next.nextSibling;
    else from.insertBefore(match, next);
    morphNode(match, wanted);
  }
  while (next) dropNext();
}

function morphNode(node, wanted) {
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.nodeValue !== wanted.nodeValue) node.nodeValue = wanted.nodeValue;
  } else if (!node.hasAttribute("data-keep") && !node.isEqualNode(wanted)) {
    morph(node, wanted);
  }
}

function morphAttributes(from, to) {
  for (const { name, value } of [...to.attributes]) {
    if (!isOwnedByReader(from, name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!isOwnedByReader(from, name) && !to.hasAttribute(name)) from.removeAttribute(name);
  }
}

// Which details are open is the reader's choice; which routes the filter hides is set again after each update.
function isOwnedByReader(element, attribute) {
  return attribute === "open" && element.nodeName === "DETAILS";
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") || node.id : "";
}

async function update() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  const started = performance.now();
  try {
    const answer = await fetch(`live?${openRoutes()}`, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const wanted = document.createElement("div");
    wanted.id = "live";
    wanted.append(...new DOMParser().parseFromString(await answer.text(), "text/html").body.childNodes);
    morph(live, wanted);
    showRate();
    filterRoutes();
    lastAnswer = new Date();
    setLost(false);
  } catch (error) {
    setLost(true);
  }
  // A page with very many routes costs the gateway time: such a page is fetched less often. A gateway that does not
  // answer is asked again soon.
  const took = performance.now() - started;
  busy = false;
  schedule(again ? 0 : lost.hidden ? Math.max(PERIOD_MS - took, 4 * took) : PERIOD_MS);
  again = false;
}

// Of many routes the gateway sends pods only where the reader has opened the details.
function openRoutes() {
  const open = document.querySelectorAll("tbody.route:has(details[open])");
  return new URLSearchParams([...open].slice(0, 50).map((route) => ["open", route.dataset.key]));
}

function schedule(delay) {
  clearTimeout(pause);
  document.getElementById("beat").textContent = document.hidden ? "paused" : "live";
  if (!document.hidden) pause = setTimeout(update, Math.min(delay, 10 * PERIOD_MS));
}

function setLost(isLost) {
  document.body.classList.toggle("is-lost", isLost);
  if (lost.hidden === !isLost) return;
  lost.hidden = !isLost;
  lost.textContent = isLost
    ? `Connection lost since ${lastAnswer.toLocaleTimeString()}. What you see is the state of that time; trying again.`
    : "";
}

// RPCs a second between two updates; counters that went down belong to a gateway that was restarted.
function showRate() {
  const now = { total: Number(document.getElementById("rpcs").dataset.total), at: performance.now() };
  if (lastTotal && now.total >= lastTotal.total) {
    const rate = ((now.total - lastTotal.total) * 1000) / (now.at - lastTotal.at);
    document.getElementById("rate").textContent = `${rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en")} per second`;
  }
  lastTotal = now;
}

function filterRoutes() {
  const input = document.getElementById("filter");
  if (!input) return;
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const routes = document.querySelectorAll("tbody.route");
  let shown = 0;
  for (const route of routes) {
    const text = route.dataset.search.toLowerCase();
    route.hidden = !words.every((word) => text.includes(word));
    if (!route.hidden) shown += 1;
  }
  const count = words.length ? `${shown} of ${routes.length}` : `${routes.length} route${routes.length === 1 ? "" : "s"}`;
  const label = document.getElementById("shown");
  if (label.textContent !== count) label.textContent = count;
  document.getElementById("none").hidden = shown > 0;
}

document.addEventListener("input", (event) => {
  if (event.target.id === "filter") filterRoutes();
});
document.addEventListener("keydown", (event) => {
  const input = document.getElementById("filter");
  if (!input || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.activeElement !== input) {
    event.preventDefault();
    input.focus();
  }
});
document.addEventListener("visibilitychange", () => schedule(0));
document.addEventListener("toggle", (event) => {
  if (event.target.open && event.target.querySelector("[data-missing]")) schedule(0);
}, true);

showRate();
filterRoutes();
schedule(PERIOD_MS);
