"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const controls = document.getElementById("controls").elements;
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const PAGE = 20;
  let found = [];
  let numShown = 0;

  const element = (name, content, className) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (content !== undefined) made.append(content);
    return made;
  };

  const fill = (select, values, chosen) => {
    select.replaceChildren(...values.map((value) => new Option(value || "nothing", value)));
    if (values.includes(chosen)) select.value = chosen;
  };

  const score = (task, record) =>
    record && record.scores ? record.scores[task.metric] * (task.higher_is_better ? 1 : -1) : null;

  const outputText = (record) => (record ? record.output ?? "" : "");

  const select = () => {
    const task = data[controls.task.value];
    const left = task.rows[controls.left.value];
    const right = task.rows[controls.right.value];
    const words = controls.text.value.toLowerCase();
    const best = Math.max(...left.map((record) => score(task, record) ?? -Infinity));
    const rows = task.samples.map((sample, index) => {
      const one = score(task, left[index]);
      const two = right ? score(task, right[index]) : null;
      const difference = one !== null && two !== null ? one - two : 0;
      return { sample, index, one, two, difference };
    });
    const tests = {
      all: () => true,
      differ: (row) =>
        right && (row.difference !== 0 || outputText(left[row.index]) !== outputText(right[row.index])),
      better: (row) => row.difference > 0,
      worse: (row) => row.difference < 0,
      imperfect: (row) => row.one !== null && row.one < best,
      unscored: (row) => row.one === null || (right && row.two === null),
    };
    const mentions = (row) => {
      const texts = [row.sample.input, ...row.sample.references];
      texts.push(outputText(left[row.index]), outputText(right && right[row.index]));
      return texts.join("\n").toLowerCase().includes(words);
    };
    found = rows.filter((row) => tests[controls.filter.value](row) && (!words || mentions(row)));
    if (controls.order.value === "difference") {
      found.sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference));
    } else if (controls.order.value === "low") {
      found.sort((a, b) => (a.one ?? -Infinity) - (b.one ?? -Infinity));
    }
    const part = task.samples.length < task.num_samples
      ? ` The page holds the first ${task.samples.length} of ${task.num_samples}; samples.jsonl has all.`
      : "";
    document.getElementById("count").textContent =
      `${found.length} of ${task.samples.length} samples.${part}`;
    list.replaceChildren();
    numShown = 0;
    show();
  };

  // Words of `text` that are not in the longest common subsequence with `other` are marked.
  const marked = (text, other) => {
    const ours = text.split(/(\s+)/);
    const theirs = other.split(/(\s+)/);
    if (ours.length * theirs.length > 4e6) return [text];
    const width = theirs.length + 1;
    const lengths = new Uint16Array((ours.length + 1) * width);
    for (let i = ours.length - 1; i >= 0; i--) {
      for (let j = theirs.length - 1; j >= 0; j--) {
        lengths[i * width + j] = ours[i] === theirs[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      }
    }
    const parts = [];
    for (let i = 0, j = 0; i < ours.length; i++) {
      while (j < theirs.length && ours[i] !== theirs[j]
        && lengths[i * width + j + 1] >= lengths[(i + 1) * width + j]) j++;
      if (j < theirs.length && ours[i] === theirs[j]) {
        parts.push(ours[i]);
        j++;
      } else {
        parts.push(ours[i].trim() ? element("ins", ours[i]) : ours[i]);
      }
    }
    return parts;
  };

  const panel = (title, ...content) => {
    const made = element("div");
    made.append(element("h4", title), ...content);
    return made;
  };

  const answer = (label, record, other) => {
    const body = element("pre");
    if (record.refusal !== undefined) {
      body.append(`refused: ${record.refusal}`);
    } else {
      body.append(...(other && other.output !== undefined
        ? marked(record.output, other.output) : [record.output]));
    }
    const scores = Object.entries(record.scores || {})
      .map(([name, value]) => `${name} ${Number(value.toFixed(4))}`);
    if (record.finish_reason === "length") scores.push("cut at the limit");
    const content = [body, element("p", scores.join(" · "), "scores")];
    if (record.prompt !== undefined) {
      const details = element("details");
      details.append(element("summary", "prompt"), element("pre", record.prompt));
      content.push(details);
    }
    return panel(label, ...content);
  };

  const choices = (sample, left, right) => {
    const body = element("pre");
    sample.choices.forEach((choice, index) => {
      const logprobs = [left, right].filter((record) => record && record.logprobs
        && record.logprobs.length)
        .map((record) => record.logprobs[index].toFixed(2));
      const text = `${index === sample.target ? "✓" : " "} ${choice.trim()}  ${logprobs.join("  ")}\n`;
      body.append(index === sample.target ? element("span", text, "right") : text);
    });
    return panel("choices and their log-likelihoods", body);
  };

  const show = () => {
    const task = data[controls.task.value];
    const [left, right] = [controls.left.value, controls.right.value];
    for (const row of found.slice(numShown, numShown + PAGE)) {
      const one = task.rows[left][row.index];
      const two = right ? task.rows[right][row.index] : null;
      const made = element("article", undefined, "sample");
      const head = element("h3", `sample ${row.sample.id}`);
      if (two && row.difference) {
        const sign = row.difference > 0 ? "better" : "worse";
        head.append(element("span", `${left} is ${sign} by ${Number(Math.abs(row.difference).toFixed(4))}`));
      }
      const grid = element("div", undefined, "grid");
      grid.append(panel("input", element("pre", row.sample.input)));
      if (row.sample.choices && row.sample.choices.length > 1) {
        grid.append(choices(row.sample, one, two));
      } else {
        grid.append(panel("reference", element("pre", row.sample.references.join("\n— or —\n"))));
      }
      grid.append(answer(left, one, two));
      if (two) grid.append(answer(right, two, one));
      made.append(head, grid);
      list.append(made);
    }
    numShown = Math.min(found.length, numShown + PAGE);
    more.hidden = numShown >= found.length;
    more.textContent = `Show more (${found.length - numShown} left)`;
  };

  const rowsOfTask = () => {
    const labels = Object.keys(data[controls.task.value].rows);
    fill(controls.left, labels, data[controls.task.value].best);
    fill(controls.right, ["", ...labels], controls.right.value || labels[0]);
  };

  fill(controls.task, Object.keys(data));
  rowsOfTask();
  controls.task.addEventListener("change", rowsOfTask);
  for (const control of controls) {
    control.addEventListener(control.name === "text" ? "input" : "change", select);
  }
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", show);
  select();
})();
