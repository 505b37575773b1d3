// A page to render into: a document, React in its testing mode, and what a component has shown.

import { Window } from "happy-dom";

const window = new Window();
// What React DOM takes from the page, and no more: for the client this is still Node.
const globals = { window, document: window.document, navigator: window.navigator, IS_REACT_ACT_ENVIRONMENT: true };
for (const [name, value] of Object.entries(globals)) Object.defineProperty(globalThis, name, { value, configurable: true });
const { act, createElement, StrictMode } = await import("react");
const { createRoot } = await import("react-dom/client");
export { act, createElement };

/**
 * Renders in `StrictMode`, which mounts each component twice; React's own complaints fail the test. Called before the
 * client is made, so that the page goes first.
 */
export function page(t) {
  const container = window.document.createElement("div");
  const root = createRoot(container);
  const complaints = [];
  t.mock.method(console, "error", (...parts) => complaints.push(parts));
  const render = (...elements) => act(async () => root.render(createElement(StrictMode, null, ...elements)));
  t.after(async () => {
    await act(async () => root.unmount());
    if (complaints.length > 0) throw new Error(`React complained: ${JSON.stringify(complaints)}`);
  });
  return { render, unmount: () => act(async () => root.unmount()), text: () => container.textContent };
}

/** A component that records what `useIt` returned at each render that took effect. */
export function recorder(useIt) {
  const shown = [];
  function Recorder(properties) {
    const value = useIt(properties);
    if (shown.at(-1) !== value) shown.push(value);
    return createElement("i", null, JSON.stringify(value));
  }
  return { Component: Recorder, shown, last: () => shown.at(-1) };
}
