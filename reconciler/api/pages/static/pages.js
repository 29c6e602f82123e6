// Makes pages that are whole without it nicer: ages that grow, `/` for search, a word on the stream.
(() => {
  "use strict";
  const sizes = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const patience = 2000; // milliseconds before what failed is tried again
  const longest = 5000; // lines of a log that is followed

  function age(time) {
    const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
    const [unit, size] = sizes.find(([, size]) => seconds >= size) || ["s", 1];
    return `${Math.floor(seconds / size)}${unit} ago`;
  }

  function grow() {
    for (const element of document.querySelectorAll("main time")) {
      const text = age(element.dateTime);
      if (element.textContent !== text) element.textContent = text;
    }
  }

  function say(text) {
    const state = document.getElementById("state");
    if (state && state.textContent !== text) state.textContent = text;
  }

  function refresh() {
    document.body.dispatchEvent(new Event("changed"));
  }

  // --- What was lost on the way is fetched again -----------------------------

  let isLive = false;

  function failed(event, status) {
    const element = event.target;
    if (status === 401) return say("Your login has ended: load this page again to log in");
    if (element.matches?.("main")) {
      say("This page could not be refreshed; trying again");
      setTimeout(refresh, patience);
    } else if (element.matches?.("[hx-sse\\:connect]")) {
      say("Not connected; trying again");
      setTimeout(() => element.dispatchEvent(new Event("retry")), patience);
    }
  }
  document.addEventListener("htmx:error", (event) => failed(event));
  document.addEventListener("htmx:response:error", (event) => failed(event, event.detail.ctx.response.status));
  document.addEventListener("htmx:sse:after:connection", () => { isLive = true; say("Live"); });
  document.addEventListener("htmx:sse:error", (event) => {
    isLive = false;
    if (event.detail.status === 401) failed(event, 401);
    else say("Connection lost; reconnecting");
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) refresh(); });

  // --- What somebody types, and where they are, stays -------------------------

  const isTyped = (form) => [...form.elements].some((each) => each.value !== (each.defaultValue ?? each.value));
  let focused = null;

  document.addEventListener("htmx:before:swap", (event) => {
    const { sourceElement, text } = event.detail.ctx;
    if (!sourceElement.matches("main")) return;
    focused = document.activeElement;
    const forms = [...sourceElement.querySelectorAll("form[id]")];
    // A form that the new page does not have any more waits until it is sent or closed.
    if (forms.some((form) => form.checkVisibility() && isTyped(form) && !text.includes(`id="${form.id}"`))) {
      event.preventDefault();
      say("There is news; send or close your form to see it");
    }
  });
  document.addEventListener("htmx:after:swap", (event) => {
    const { sourceElement, response } = event.detail.ctx;
    if (sourceElement.matches("main") && response?.status < 400) { // what failed is swapped in too, as nothing
      if (focused?.isConnected && document.activeElement === document.body) focused.focus({ preventScroll: true });
      if (isLive) say("Live");
    }
    grow();
    follow();
  });
  document.addEventListener("toggle", (event) => {
    if (!event.target.open && event.target.querySelector("form")) refresh();
  }, true);

  // --- Logs --------------------------------------------------------------------

  // A log that is read at its end stays there; one that somebody has scrolled back is left alone.
  let isAtEnd = true;
  function follow() {
    const log = document.querySelector("[data-follow]");
    if (!log || !isAtEnd) return;
    while (log.childElementCount > longest) log.firstElementChild.remove();
    log.scrollTop = log.scrollHeight;
  }
  document.addEventListener("scroll", (event) => {
    const log = event.target;
    if (log.matches?.("[data-follow]")) isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  }, true);

  // --- Keys --------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      document.getElementById("search")?.focus();
    }
    const menu = event.key === "Escape" && event.target.closest(".act details[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches(".filters select")) event.target.form.requestSubmit();
  });
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelector(".top nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
    grow();
    follow();
  });
  setInterval(grow, 10000);
})();
