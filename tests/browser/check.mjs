// Look at pages as people do: in Debian's chromium, offline, wide and narrow, light and dark, on paper, by keyboard.
//
//   node check.mjs [--browser /usr/bin/chromium] [--screenshots FOLDER] PAGE.html ...
//
// Writes one JSON: {browser, pages: {PAGE: {findings: [{check, what}], remarks: [...], seen: {...}}}}. A finding is a
// fault of the page; a remark is for a person to look at; "seen" counts what was checked, so that a page on which
// nothing was found to check is told from a page that is right. The exit status is 0 whatever was found.
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import * as inPage from "./in_page.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDE = { width: 1200, height: 900 };
const PHONE = { width: 390, height: 844 };
const PAPER = { width: 680, height: 1009 }; // A4 within the margins of page.css, in CSS pixels
const BLOCKING = new Set(["serious", "critical"]);

class Notes {
  findings = [];
  remarks = [];
  seen = {};
  fault = (check, ...what) => this.findings.push(...what.map((one) => ({ check, what: one })));
  remark = (check, ...what) => this.remarks.push(...what.map((one) => ({ check, what: one })));
}

/** Open a page in a context of its own, with the network off; what the page says and asks for goes into the notes. */
async function open(browser, url, notes, options = {}) {
  const context = await browser.newContext({ offline: true, viewport: WIDE, reducedMotion: "reduce", ...options });
  const asked = (what) => notes.fault("request", what);
  await context.route("**/*", (route) => {
    const wanted = route.request().url();
    return wanted.split("#")[0] === url ? route.continue() : route.abort();
  });
  context.on("request", (request) => request.url().split("#")[0] === url || asked(request.url()));
  const page = await context.newPage();
  page.on("websocket", (socket) => asked(socket.url()));
  page.on("popup", (popup) => asked(`opened ${popup.url()}`));
  page.on("console", (message) => {
    if (["error", "warning", "assert"].includes(message.type())) notes.fault("console", message.text());
  });
  page.on("pageerror", (error) => notes.fault("script", String(error)));
  page.on("dialog", (dialog) => {
    notes.fault("dialog", dialog.message());
    return dialog.dismiss();
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      globalThis.violations.push(`${event.effectiveDirective} blocked ${event.blockedURI || event.sourceFile}`);
    });
  });
  await page.goto(url);
  return page;
}

/** What the page shows, says and asks for, at three widths and with nothing bypassed. */
async function look(page, notes) {
  const shown = await page.evaluate(inPage.drawings);
  notes.seen.drawings = shown.count;
  notes.fault("drawing", ...shown.faults);
  notes.fault("reference", ...(await page.evaluate(inPage.references)));
  notes.seen.links = await links(page, notes);
  notes.fault("overflow", ...(await page.evaluate(inPage.overflow)));

  await page.setViewportSize(PHONE);
  notes.fault("overflow", ...(await page.evaluate(inPage.overflow)));
  notes.fault("drawing", ...(await page.evaluate(inPage.drawings)).faults);
  notes.fault("contents", ...(await contents(page)));

  await page.setViewportSize(PAPER);
  await page.emulateMedia({ media: "print" });
  notes.fault("overflow", ...(await page.evaluate(inPage.overflow)));
  notes.fault("drawing", ...(await page.evaluate(inPage.drawings)).faults);
  await page.emulateMedia({ media: "screen", colorScheme: "dark" });
  notes.fault("faint", ...(await page.evaluate(inPage.faint)));
  notes.remark("black", ...(await page.evaluate(inPage.black)));
  await page.emulateMedia({ media: "screen", colorScheme: "light" });
  notes.fault("faint", ...(await page.evaluate(inPage.faint)));
  notes.fault("policy", ...(await page.evaluate(() => globalThis.violations)));
}

/** Every link leads somewhere: to a part of the page, to a file beside it, or by choice to the web. */
async function links(page, notes) {
  const found = await page.evaluate(inPage.links);
  for (const { href, protocol, target } of found) {
    if (["https:", "http:", "mailto:"].includes(protocol)) continue;
    if (protocol !== "file:") notes.fault("link", `${href} is neither of the web nor a file`);
    else if (!target) notes.fault("link", `${href} leads to no part of this page`);
    else if (target !== true && !existsSync(fileURLToPath(target))) notes.fault("link", `${href} leads to no file`);
  }
  return found.length;
}

/** A heading that a link of the contents leads to must not lie under what sticks to the top. */
async function contents(page) {
  const faults = [];
  const found = page.locator("nav a[href^='#']");
  for (let i = 0; i < (await found.count()); i++) {
    await found.nth(i).click();
    const hidden = await found.nth(i).evaluate(inPage.covered);
    if (hidden) faults.push(hidden);
  }
  return faults;
}

/** Walk the page with the Tab key: everything that can be used is reached, in sight, with a visible focus. */
async function keyboard(page, notes) {
  const wanted = await page.evaluate(inPage.markFocusable);
  const reached = new Set();
  for (let i = 0; i < wanted.length + 2; i++) {
    await page.keyboard.press("Tab");
    const { mark, fault } = await page.evaluate(inPage.focused);
    if (mark !== null) reached.add(mark);
    if (i === 0 && mark !== wanted.find((one) => one.skip)?.mark) notes.fault("keyboard", "the first Tab is no skip link");
    if (fault) notes.fault("keyboard", fault);
  }
  notes.seen.focusable = wanted.length;
  notes.fault("keyboard", ...wanted.filter((one) => !reached.has(one.mark)).map((one) => `Tab misses ${one.name}`));
}

/** Tables sort by mouse and by keyboard, say so, and filters hide rows. */
async function tables(page, notes) {
  const heads = page.locator("table.sortable thead button");
  notes.seen.sorted = await heads.count();
  for (let i = 0; i < notes.seen.sorted; i++) {
    for (const way of ["ascending", "descending"]) {
      if (way === "ascending") await heads.nth(i).click();
      else await heads.nth(i).press("Enter");
      const fault = await heads.nth(i).evaluate(inPage.unsorted, way);
      if (fault) notes.fault("sorting", fault);
    }
  }
  const filters = page.locator("input[data-filters]");
  notes.seen.filtered = await filters.count();
  for (let i = 0; i < notes.seen.filtered; i++) {
    const filter = filters.nth(i);
    const { all, word, hits } = await filter.evaluate(inPage.wordToFilter);
    for (const [text, rows] of [[word, hits], ["no such row ¬", 0], ["", all]]) {
      await filter.fill(text);
      const shown = await filter.evaluate(inPage.shownRows);
      if (shown !== rows) notes.fault("filter", `${JSON.stringify(text)} shows ${shown} of ${all} rows, not ${rows}`);
    }
  }
}

/** Without its script the page is complete: the same words, and nothing on offer that cannot work. */
async function withoutScript(browser, url, words, notes) {
  const page = await open(browser, url, notes, { javaScriptEnabled: false });
  const found = await page.evaluate(inPage.words);
  if (found !== words) notes.fault("without script", "the page has other words when its script does not run");
  notes.fault("without script", ...(await page.evaluate(inPage.drawings)).faults);
  const dead = await page.locator("input:visible, button:visible").count();
  if (dead) notes.fault("without script", `${dead} inputs or buttons that do nothing without the script`);
  await page.context().close();
}

/** axe-core in light, dark and print; for it alone the page's policy is bypassed. */
async function accessibility(browser, url, notes) {
  const page = await open(browser, url, new Notes(), { bypassCSP: true });
  await page.evaluate(AXE);
  await page.evaluate(inPage.prepareForAxe);
  const looks = [
    ["light", { colorScheme: "light", media: "screen" }],
    ["dark", { colorScheme: "dark", media: "screen" }],
    ["print", { colorScheme: "light", media: "print" }],
  ];
  for (const [name, media] of looks) {
    await page.emulateMedia(media);
    const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations", "incomplete"] }));
    const told = ({ id, help, nodes }) =>
      `${name}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")} (${nodes.length})`;
    notes.seen[`rules passed, ${name}`] = found.passes.length;
    notes.fault("accessibility", ...found.violations.filter((one) => BLOCKING.has(one.impact)).map(told));
    notes.remark("accessibility", ...found.violations.filter((one) => !BLOCKING.has(one.impact)).map(told));
    notes.remark("unsure", ...found.incomplete.map(told));
  }
  await page.context().close();
}

/** Pictures for people: wide, phone, dark, and the printed page. */
async function pictures(browser, url, folder) {
  const name = basename(url, ".html");
  const looks = [["wide", WIDE, "light"], ["dark", WIDE, "dark"], ["phone", PHONE, "light"], ["phone-dark", PHONE, "dark"]];
  for (const [look, viewport, colorScheme] of looks) {
    const page = await open(browser, url, new Notes(), { viewport, colorScheme });
    await page.screenshot({ path: resolve(folder, `${name}_${look}.png`), fullPage: true });
    if (look === "dark") {
      await page.pdf({ path: resolve(folder, `${name}.pdf`), format: "A4", preferCSSPageSize: true });
    }
    await page.context().close();
  }
}

async function check(browser, path, folder) {
  const notes = new Notes();
  const url = pathToFileURL(resolve(path)).href;
  const page = await open(browser, url, notes);
  const words = await page.evaluate(inPage.words);
  await keyboard(page, notes);
  await tables(page, notes);
  await look(page, notes);
  await page.context().close();
  await withoutScript(browser, url, words, notes);
  await accessibility(browser, url, notes);
  if (folder) await pictures(browser, url, folder);
  const { findings, remarks, seen } = notes;
  return { findings, remarks, seen };
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { browser: { type: "string", default: "/usr/bin/chromium" }, screenshots: { type: "string" } },
});
if (values.screenshots) mkdirSync(values.screenshots, { recursive: true });
const browser = await chromium.launch({ executablePath: values.browser, args: ["--no-sandbox"] });
try {
  const pages = {};
  const left = [...positionals];
  const work = async () => {
    for (let path = left.shift(); path; path = left.shift()) pages[path] = await check(browser, path, values.screenshots);
  };
  await Promise.all([work(), work()]);
  process.stdout.write(`${JSON.stringify({ browser: browser.version(), pages }, null, 1)}\n`);
} finally {
  await browser.close();
}
