"use strict";
(() => {
  const KEYS = ["status", "recipe", "kind", "reason", "stratum"];
  const BLINK_MS = 650;
  const root = document.documentElement;
  const controls = document.querySelector(".controls");
  const cards = [...document.querySelectorAll(".card")];
  const selects = Object.fromEntries(
    [...controls.querySelectorAll("select")].map((select) => [select.name, select]));
  const button = (name) => controls.querySelector(`button[name=${name}]`);
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // The state of the page is its hash: "#status=drop&reason=too_similar&outline=off".
  const read = () => new URLSearchParams(location.hash.slice(1));

  const write = (change) => {
    const state = new URLSearchParams();
    const old = read();
    for (const key of [...KEYS, "outline", "blink"]) {
      const value = key in change ? change[key] : old.get(key);
      if (value) state.set(key, value);
    }
    const hash = state.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    apply();
  };

  const matches = (card, state) => KEYS.every((key) => {
    const wanted = state.get(key);
    return !wanted || card.dataset[key].split(key === "stratum" ? " " : "\n").includes(wanted);
  });

  const apply = () => {
    const state = read();
    let shown = 0;
    for (const card of cards) {
      card.hidden = !matches(card, state);
      shown += card.hidden ? 0 : 1;
    }
    // A section without a matching card is hidden as a whole.
    for (const section of document.querySelectorAll(".gallery")) {
      section.hidden = section.querySelector(".card") !== null
        && section.querySelector(".card:not([hidden])") === null;
    }
    document.querySelector(".no-match").hidden = shown > 0 || cards.length === 0;
    for (const key of KEYS) {
      const wanted = state.get(key) || "";
      const known = [...selects[key].options].some((option) => option.value === wanted);
      selects[key].value = known ? wanted : "";
      selects[key].classList.toggle("set", wanted !== "");
    }
    const active = KEYS.filter((key) => state.get(key)).length;
    button("clear").hidden = active === 0;
    controls.querySelector(".fold").textContent = active ? `Filters (${active})` : "Filters";
    controls.querySelector(".number").textContent = `${shown} of ${cards.length}`;
    const outlined = state.get("outline") !== "off";
    root.classList.toggle("no-outline", !outlined);
    button("outline").setAttribute("aria-pressed", String(outlined));
    const all = state.get("blink") === "on";
    button("blink").setAttribute("aria-pressed", String(all));
    for (const frame of frames) set(frame, "all", all);
  };

  // A blinking near miss alternates with its original in the same place. A frame may have several
  // reasons to blink: the pointer is over it, it was clicked, or all of them blink.
  const frames = [...document.querySelectorAll(".images.two .near")];
  const why = new Map(frames.map((frame) => [frame, new Set()]));
  let timer = 0;
  let swapped = true;

  const draw = (frame) => {
    const on = why.get(frame).size > 0;
    if (on && !frame.querySelector(".under")) {
      const original = frame.parentElement.querySelector(".original img");
      const under = original.cloneNode();
      under.className = "under";
      under.alt = "";
      frame.querySelector("img").after(under);
    }
    frame.classList.toggle("blinking", on);
    frame.classList.toggle("swapped", on && swapped);
    frame.querySelector(".tag").textContent = on && swapped ? "original" : "near miss";
  };

  const set = (frame, reason, on) => {
    const reasons = why.get(frame);
    if (reasons.has(reason) === on) return;
    if (on) reasons.add(reason); else reasons.delete(reason);
    const busy = frames.some((other) => why.get(other).size > 0);
    if (busy && !timer) {
      swapped = true;
      timer = setInterval(() => {
        if (still.matches) return;
        swapped = !swapped;
        frames.filter((other) => why.get(other).size > 0).forEach(draw);
      }, BLINK_MS);
    } else if (!busy && timer) {
      clearInterval(timer);
      timer = 0;
    }
    draw(frame);
  };

  for (const frame of frames) {
    frame.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") set(frame, "hover", true);
    });
    frame.addEventListener("pointerleave", () => set(frame, "hover", false));
    frame.addEventListener("click", () => {
      const on = !why.get(frame).has("press");
      frame.setAttribute("aria-pressed", String(on));
      set(frame, "press", on);
    });
  }

  for (const key of KEYS) {
    selects[key].addEventListener("change", () => write({ [key]: selects[key].value }));
  }
  button("outline").addEventListener("click", () =>
    write({ outline: root.classList.contains("no-outline") ? "" : "off" }));
  button("blink").addEventListener("click", () =>
    write({ blink: read().get("blink") === "on" ? "" : "on" }));
  button("clear").addEventListener("click", () =>
    write(Object.fromEntries(KEYS.map((key) => [key, ""]))));
  const fold = controls.querySelector(".fold");
  fold.addEventListener("click", () => {
    const open = controls.classList.toggle("open");
    fold.setAttribute("aria-expanded", String(open));
  });

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest(".copy");
    if (!copy) return;
    try {
      await navigator.clipboard.writeText(copy.dataset.copy);
      copy.textContent = "copied";
    } catch {
      // Without access to the clipboard the id is selected instead, to be copied by hand.
      getSelection().selectAllChildren(copy.previousElementSibling);
      copy.textContent = "selected";
    }
    setTimeout(() => { copy.textContent = "copy"; }, 1500);
  });

  // A link with filters scrolls to the images; a plain anchor leaves the filters alone.
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return;
    apply();
    document.getElementById("gallery").scrollIntoView();
  });
  controls.hidden = cards.length === 0;
  apply();
})();
