"use strict";
// Shows one image of the queue at a time, takes answers by keys, and saves them as queue.csv.
const NOT_USABLE = "-";
const KEYS = "1234567890abcdefghijklmnopqrstuvwxyz";

// Class names of one character are their own keys; other classes are numbered.
function keysOf(classes) {
  const single = classes.every((name) => /^[0-9a-z]$/i.test(name)) &&
    new Set(classes.map((name) => name.toLowerCase())).size === classes.length;
  const entries = classes.map((name, at) => [single ? name.toLowerCase() : KEYS[at], name]);
  return new Map(entries.filter(([key]) => key !== undefined));
}

// As components/csv_files.py: an apostrophe keeps spreadsheets from taking a text for a formula.
function csvField(value) {
  const isFormula = typeof value === "string" && /^'*[=+@\t\r-]./s.test(value);
  const text = value === null || value === undefined ? "" : (isFormula ? "'" : "") + String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function toCsv(columns, rows, answers, reviewer) {
  const lines = [columns.join(",")];
  for (const row of rows) {
    const answer = answers[row.key] || "";
    const filled = { ...row, answer, reviewer: answer ? reviewer : "" };
    lines.push(columns.map((name) => csvField(filled[name])).join(","));
  }
  return "\ufeff" + lines.map((line) => line + "\r\n").join("");
}

function start() {
  const { identity, columns, classes, rows } = JSON.parse(document.getElementById("data").textContent);
  const keys = keysOf(classes);
  const keyOf = new Map([...keys].map(([key, name]) => [name, key]));
  const part = (id) => document.getElementById(id);
  let at = 0;
  let saved = true;
  let answers = {};
  try {
    answers = JSON.parse(localStorage.getItem(identity)) || {};
    part("reviewer").value = localStorage.getItem("reviewer") || "";
  } catch { /* a browser that keeps nothing for files */ }

  function keep() {
    saved = false;
    try {
      localStorage.setItem(identity, JSON.stringify(answers));
      localStorage.setItem("reviewer", part("reviewer").value);
    } catch { /* as above */ }
  }

  function choice(name, text, key) {
    const button = document.createElement("button");
    button.type = "button";
    if (key) button.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    button.append(text);
    if (name === rows[at].label) button.classList.add("model");
    if (name === answers[rows[at].key]) button.classList.add("chosen");
    button.addEventListener("click", () => answer(name));
    return button;
  }

  function show() {
    if (!rows.length) return;
    const row = rows[at];
    part("place").textContent = `${at + 1} of ${rows.length}`;
    const given = row.given_label && row.given_label !== row.label ? `\u2068${row.given_label}\u2069 given; ` : "";
    part("label").textContent = `${given}\u2068${row.label}\u2069, ${(100 * row.probability).toFixed(1)} %`;
    part("name").textContent = row.key;
    const holder = part("picture");
    holder.replaceChildren();
    if (row.picture) {
      const image = document.createElement("img");
      image.src = row.picture.uri;
      image.alt = row.key;
      if (row.picture.crisp) image.className = "crisp";
      holder.append(image);
    } else {
      holder.append("no picture");
    }
    part("choices").replaceChildren(
      ...classes.map((name) => choice(name, name, keyOf.get(name))), choice(NOT_USABLE, "none of them", NOT_USABLE));
    const done = rows.filter((each) => answers[each.key]).length;
    part("state").textContent = `${done} of ${rows.length} answered`;
  }

  function move(step) {
    at = Math.min(Math.max(at + step, 0), rows.length - 1);
    show();
  }

  function answer(name) {
    if (!rows.length) return;
    answers[rows[at].key] = name;
    keep();
    move(1);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(".bar") || !rows.length) return;
    const key = event.key.toLowerCase();
    if (event.key === "ArrowRight") move(1);
    else if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "Enter") answer(rows[at].label);
    else if (event.key === "Backspace") { delete answers[rows[at].key]; keep(); show(); }
    else if (event.key === NOT_USABLE) answer(NOT_USABLE);
    else if (keys.has(key)) answer(keys.get(key));
    else return;
    event.preventDefault();
  });
  part("reviewer").addEventListener("change", keep);
  part("save").addEventListener("click", () => {
    const content = toCsv(columns, rows, answers, part("reviewer").value);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    link.download = "answers.csv";
    link.click();
    saved = true;
  });
  window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
  const first = rows.findIndex((row) => !answers[row.key]);
  at = first < 0 ? 0 : first;
  show();
}

if (typeof document !== "undefined") start();
