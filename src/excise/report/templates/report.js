"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    // Texts of data and models are only ever set as text.
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const spoken = (tag, className, text) => {
    const element = make(tag, className, text);
    element.dir = "auto";
    return element;
  };

  // --- light and dark ---------------------------------------------------------------------------
  const theme = byId("theme");
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem("excise-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); };
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  theme.hidden = false;
  label();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("excise-theme", root.dataset.theme); } catch { /* a file may not store */ }
    label();
  });

  // --- what a mark or a cell stands for ---------------------------------------------------------
  const tip = byId("tip");
  const show = (event) => {
    const target = event.target.closest && event.target.closest("[data-tip]");
    if (!target) { tip.hidden = true; return; }
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = target.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
    const above = box.top - own.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  addEventListener("beforeprint", () => document.querySelectorAll("figure details").forEach((d) => { d.open = true; }));

  // --- items ------------------------------------------------------------------------------------
  const source = byId("data");
  if (!source) return;
  const tasks = JSON.parse(source.textContent);
  const [ID, , GROUP, CONTEXT, OPTIONS, GOLD, UNKNOWN, STEREOTYPED, FIELDS, ANSWERS, TOKENS] = Array.from({ length: 11 }, (_, i) => i);
  const BEFORE = 0, AFTER = 1, SHARES_BEFORE = 2, SHARES_AFTER = 3, P_BEFORE = 4, P_AFTER = 5;
  const PER_PAGE = 24;
  const state = { task: 0, wording: 0, search: "", change: "all", context: "all", sort: "file", page: 0 };

  const answer = (item) => item[ANSWERS][state.wording];
  const tests = {
    all: () => true,
    changed: (item, a) => a[BEFORE] !== a[AFTER],
    fixed: (item, a) => a[BEFORE] !== item[GOLD] && a[AFTER] === item[GOLD],
    broken: (item, a) => a[BEFORE] === item[GOLD] && a[AFTER] !== item[GOLD],
    abstained: (item, a) => item[UNKNOWN] >= 0 && a[AFTER] === item[UNKNOWN] && a[BEFORE] !== item[UNKNOWN],
  };
  const contexts = { all: () => true, ambiguous: (item) => item[CONTEXT] === 0, disambiguated: (item) => item[CONTEXT] === 1 };
  const share = (item, index, which) => { const s = answer(item)[which]; return s && index >= 0 ? s[index] : 0; };
  const gain = (item) => share(item, item[GOLD], SHARES_AFTER) - share(item, item[GOLD], SHARES_BEFORE);
  const orders = {
    file: null,
    gain: (a, b) => gain(b) - gain(a),
    loss: (a, b) => gain(a) - gain(b),
    stereotype: (a, b) => share(b, b[STEREOTYPED], SHARES_BEFORE) - share(a, a[STEREOTYPED], SHARES_BEFORE),
    group: (a, b) => a[GROUP].localeCompare(b[GROUP]),
  };
  const words = new WeakMap();
  const text = (item) => {
    if (!words.has(item)) words.set(item, [item[ID], item[GROUP], ...item[OPTIONS], ...item[FIELDS].map((f) => f[1])].join("\n").toLowerCase());
    return words.get(item);
  };

  const kind = (item, a) => {
    if (a[BEFORE] === a[AFTER]) return ["unclear", "= same answer"];
    if (tests.fixed(item, a)) return ["improved", "▲ fixed"];
    if (tests.broken(item, a)) return ["worse", "▼ broken"];
    return ["spared", "◆ changed"];
  };
  const named = (item, index) => (index < 0 ? "no option" : item[OPTIONS][index]);
  const written = (p) => (p === null ? "" : p >= 0.01 ? `${(100 * p).toFixed(1)} %` : p.toExponential(1));

  const track = (value, after) => {
    const outer = make("span", after ? "track after" : "track");
    const bar = make("i");
    bar.style.width = `${value / 10}%`;
    outer.append(bar);
    outer.setAttribute("aria-hidden", "true");
    return outer;
  };
  const option = (item, a, index) => {
    const row = make("li", "option");
    const name = make("div", "name");
    name.append(spoken("span", "", item[OPTIONS][index]));
    if (index === item[GOLD]) name.append(make("span", "tag right", "✓ right"));
    if (index === item[UNKNOWN]) name.append(make("span", "tag", "unknown"));
    if (index === item[STEREOTYPED]) name.append(make("span", "tag", "stereotyped"));
    row.append(name);
    const grid = make("div", "shares");
    for (const [which, shares, chosen] of [["original", a[SHARES_BEFORE], a[BEFORE]], ["patched", a[SHARES_AFTER], a[AFTER]]]) {
      const mine = chosen === index;
      if (!shares && !mine) continue;
      grid.append(make("span", mine ? "chosen-now" : "", which));
      grid.append(shares ? track(shares[index], which === "patched") : make("span"));
      const value = shares ? `${(shares[index] / 10).toFixed(1)} %` : "";
      grid.append(make("span", mine ? "value chosen-now" : "value", mine ? `● ${value}` : value));
    }
    row.append(grid);
    return row;
  };
  const tokens = (pairs) => {
    const line = spoken("p", "tokens", "Tokens that drove the attribution: ");
    const most = Math.max(...pairs.map((pair) => Math.abs(pair[1]))) || 1;
    for (const [token, weight] of pairs) {
      const mark = make("mark", weight < 0 ? "less" : "", token);
      mark.style.setProperty("--weight", String(Math.abs(weight) / most));
      mark.title = String(weight);
      line.append(mark, " ");
    }
    return line;
  };
  const wordings = (item) => {
    const details = make("details");
    details.append(make("summary", "", `All ${item[ANSWERS].length} wordings`));
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      const table = make("table");
      const head = table.createTHead().insertRow();
      for (const name of ["wording", "original", "patched"]) { const cell = make("th", "", name); cell.scope = "col"; head.append(cell); }
      const body = table.createTBody();
      item[ANSWERS].forEach((a, number) => {
        const row = body.insertRow();
        const first = spoken("th", "", tasks[state.task].instructions[number]);
        first.scope = "row";
        row.append(first, spoken("td", "", named(item, a[BEFORE])), spoken("td", "", named(item, a[AFTER])));
      });
      const box = make("div", "scroll");
      box.append(table);
      details.append(box);
    });
    return details;
  };
  const card = (item) => {
    const a = answer(item);
    const element = make("li", "item");
    const head = make("header");
    const [klass, word] = kind(item, a);
    head.append(make("span", `badge ${klass}`, word));
    if (item[CONTEXT] >= 0) head.append(make("span", "", item[CONTEXT] === 0 ? "ambiguous" : "disambiguated"));
    if (item[GROUP]) head.append(spoken("span", "", item[GROUP]));
    head.append(spoken("span", "id", item[ID]));
    element.append(head);
    for (const [name, value] of item[FIELDS]) element.append(spoken("p", name === "question" ? "text question" : "text", value));
    const list = make("ul", "options");
    item[OPTIONS].forEach((_, index) => list.append(option(item, a, index)));
    element.append(list);
    const missed = [["original", a[BEFORE]], ["patched", a[AFTER]]].filter((pair) => pair[1] < 0).map((pair) => pair[0]);
    if (missed.length) element.append(make("p", "tokens", `No option named by: ${missed.join(", ")}.`));
    if (a[P_BEFORE] !== null) element.append(make("p", "tokens", `Probability of all options together: ${written(a[P_BEFORE])} → ${written(a[P_AFTER])}`));
    if (item[TOKENS]) element.append(tokens(item[TOKENS]));
    if (item[ANSWERS].length > 1) element.append(wordings(item));
    return element;
  };

  let found = [];
  const filter = () => {
    const needle = state.search.trim().toLowerCase();
    const change = tests[state.change], context = contexts[state.context];
    found = tasks[state.task].items.filter((item) => change(item, answer(item)) && context(item) && (!needle || text(item).includes(needle)));
    if (orders[state.sort]) found.sort(orders[state.sort]);
    state.page = 0;
    draw();
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    const total = tasks[state.task].items.length;
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${total.toLocaleString("en")} items`;
    byId("items").replaceChildren(...found.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE).map(card));
    byId("page").textContent = `page ${state.page + 1} of ${pages}`;
    byId("back").disabled = state.page === 0;
    byId("next").disabled = state.page >= pages - 1;
    byId("pager").hidden = pages === 1;
  };
  const turn = (step) => { state.page += step; draw(); byId("browse").scrollIntoView(); };

  const choices = (id, entries) => {
    const fieldset = byId(id);
    for (const [value, name] of entries) {
      const outer = make("label");
      const input = make("input");
      Object.assign(input, { type: "radio", name: id, value, checked: value === state[id] });
      input.addEventListener("change", () => { state[id] = value; filter(); });
      outer.append(input, make("span", "", name));
      fieldset.append(outer);
    }
  };
  const fill = (select, names) => select.replaceChildren(...names.map((name, value) => { const o = make("option", "", name); o.value = String(value); return o; }));
  const tell = () => fill(byId("wording"), tasks[state.task].instructions.map((told, i) => `${i + 1}. ${told || "no instruction"}`));

  choices("change", [["all", "All"], ["changed", "◆ Changed"], ["fixed", "▲ Fixed"], ["broken", "▼ Broken"], ["abstained", "Newly “unknown”"]]);
  choices("context", [["all", "All"], ["ambiguous", "Ambiguous"], ["disambiguated", "Disambiguated"]]);
  fill(byId("task"), tasks.map((t) => (t.trial ? `${t.task} (patch of trial ${t.trial})` : t.task)));
  byId("task-control").hidden = tasks.length === 1;
  tell();
  byId("task").addEventListener("change", (event) => { state.task = Number(event.target.value); state.wording = 0; tell(); filter(); });
  byId("wording").addEventListener("change", (event) => { state.wording = Number(event.target.value); filter(); });
  byId("sort").addEventListener("change", (event) => { state.sort = event.target.value; filter(); });
  byId("search").addEventListener("input", (event) => { state.search = event.target.value; filter(); });
  byId("back").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").hidden = false;
  filter();
})();
