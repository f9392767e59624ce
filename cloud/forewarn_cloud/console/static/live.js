// Tells the page what changed. Regions listen with hx-trigger="live:orders from:body" and the like.
// A hidden tab lets go of its connection (browsers allow six per server) and catches up when it is looked at again.
"use strict";
(() => {
  const KINDS = ["orders", "health", "messages", "nodes", "quarantine"];
  const RETRY_MS = 3000;
  const body = document.body;
  const indicator = document.getElementById("live");
  let source = null;
  let after = body.dataset.after;
  let hour = null;

  const show = (state) => {
    indicator.dataset.state = state;
    if (indicator.textContent !== indicator.dataset[state]) indicator.textContent = indicator.dataset[state];
  };

  const tell = (kind) => body.dispatchEvent(new CustomEvent(`live:${kind}`));

  const noteTime = (event) => {
    after = event.lastEventId || after;
    const now = JSON.parse(event.data).now;
    const clock = document.getElementById("clock");
    clock.dateTime = now;
    clock.textContent = now.slice(0, 16).replace("T", " ");
    const thisHour = now.slice(0, 13);
    if (hour !== null && hour !== thisHour) tell("hour");
    hour = thisHour;
  };

  const open = () => {
    if (source || document.hidden || !after) return;
    show("connecting");
    source = new EventSource(`${body.dataset.events}?after=${encodeURIComponent(after)}`);
    source.addEventListener("open", () => show("on"));
    source.addEventListener("clock", noteTime);
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => { noteTime(event); tell(kind); });
    }
    source.addEventListener("error", () => {
      show("off");
      if (source && source.readyState === EventSource.CLOSED) { close(); window.setTimeout(open, RETRY_MS); }
    });
  };

  const close = () => { if (source) { source.close(); source = null; } };

  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
  window.addEventListener("pagehide", close);

  // What someone is typing into, or reading in an opened table, is not replaced under their hands.
  const isEdited = (region) => {
    const fields = [...region.querySelectorAll("input:not([type=hidden]), textarea, select")];
    const touched = fields.some((field) => (
      field.type === "radio" || field.type === "checkbox" ? field.checked !== field.defaultChecked
        : field.tagName === "SELECT" ? [...field.options].some((option) => option.selected !== option.defaultSelected && option.index > 0)
        : field.value !== field.defaultValue));
    return touched || fields.includes(document.activeElement);
  };
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const region = event.detail.target;
    if (region.matches("[data-keep-while-editing]") && isEdited(region)) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { target, xhr, requestConfig } = event.detail;
    // A refused action comes back as the same page with the reason on it.
    if (requestConfig.verb !== "get" && xhr.status >= 400) { event.detail.shouldSwap = true; event.detail.isError = false; }
    const isBackground = requestConfig.triggeringEvent && requestConfig.triggeringEvent.type.startsWith("live:");
    if (isBackground && target.querySelector("details[open]:not(.action-more)")) event.detail.shouldSwap = false;
  });

  open();
})();
