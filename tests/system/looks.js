// What tests ask of a page that is shown. Each function tells what is wrong, as a list of texts.
globalThis.looks = (() => {
  const name = (one) => {
    const words = (one.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
    const ident = one.id ? `#${one.id}` : one.getAttribute("class") ? `.${one.getAttribute("class")}` : "";
    return `${one.tagName.toLowerCase()}${ident} "${words}"`;
  };
  const shown = (one) => {
    const box = one.getBoundingClientRect();
    const visible = one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    return visible && box.width > 0 && box.height > 0;
  };

  // Nothing is wider than the window, unless it is in a box of its own that scrolls.
  const overflow = () => {
    const page = document.documentElement;
    if (page.scrollWidth <= page.clientWidth) return [];
    const scrolls = (one) => {
      for (let at = one.parentElement; at && at !== document.body; at = at.parentElement)
        if (getComputedStyle(at).overflowX !== "visible") return true;
      return false;
    };
    const wide = [...document.body.querySelectorAll("*")].filter(
      (one) => one.getBoundingClientRect().right > page.clientWidth + 1 && shown(one) && !scrolls(one));
    return [`${page.scrollWidth} > ${page.clientWidth}`, ...wide.slice(0, 5).map(name)];
  };

  // Marks and words of a chart lie within it, and no word lies on another.
  const charts = () => {
    const wrong = [];
    for (const chart of document.querySelectorAll("svg[role=img]")) {
      const all = chart.getBoundingClientRect();
      const marks = [...chart.querySelectorAll("rect, line")];
      const texts = [...chart.querySelectorAll("text")];
      const within = (one) => {
        const box = one.getBoundingClientRect();
        return box.left >= all.left - 1 && box.right <= all.right + 1
          && box.top >= all.top - 1 && box.bottom <= all.bottom + 1;
      };
      if (!marks.some((one) => one.tagName === "rect" && shown(one))) wrong.push(`${chart.id}: no mark`);
      for (const one of [...marks, ...texts])
        if (!within(one)) wrong.push(`${chart.id}: outside: ${name(one)}`);
      const boxes = texts.map((one) => [one, one.getBoundingClientRect()]);
      boxes.forEach(([one, a], place) => {
        for (const [other, b] of boxes.slice(place + 1)) {
          const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          if (across > 0 && down > 1) wrong.push(`${chart.id}: ${name(one)} on ${name(other)}`);
        }
      });
    }
    return wrong;
  };

  const numbers = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const known = new Map();
  const colour = (text) => {
    if (!known.has(text)) known.set(text, numbers(text));
    return known.get(text);
  };
  const over = ([r, g, b, a], under) =>
    [r, g, b].map((one, place) => one * a + under[place] * (1 - a));
  let backs = new Map();
  const behind = (one) => {
    if (!one) {
      const dark = getComputedStyle(document.documentElement).colorScheme.includes("dark")
        && matchMedia("(prefers-color-scheme: dark)").matches;
      return dark ? [18, 18, 18] : [255, 255, 255];
    }
    if (!backs.has(one))
      backs.set(one, over(colour(getComputedStyle(one).backgroundColor), behind(one.parentElement)));
    return backs.get(one);
  };
  // A text of a picture lies on what was drawn there before it, unless it has an edge of its own.
  const under = (one, edge) => {
    const svg = one.closest("svg");
    const page = behind(svg.parentElement);
    if (edge) return page;
    const box = one.getBoundingClientRect();
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    return [...svg.querySelectorAll("rect, circle")].filter((shape) => {
      const at = shape.getBoundingClientRect();
      const before = shape.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING;
      return before && at.left <= x && x <= at.right && at.top <= y && y <= at.bottom;
    }).map((shape) => getComputedStyle(shape).fill).filter((fill) => fill !== "none")
      .reduce((below, fill) => over(colour(fill), below), page);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };

  // Words have a contrast of `least` with what is behind them, marks of charts one of 3.
  const contrast = (least = 4.5) => {
    const wrong = new Set();
    backs = new Map();
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const seen = new Set();
    while (walk.nextNode()) {
      const one = walk.currentNode.parentElement;
      if (!walk.currentNode.data.trim() || seen.has(one)) continue;
      seen.add(one);
      if (["STYLE", "SCRIPT", "NOSCRIPT", "TITLE"].includes(one.tagName.toUpperCase()) || !shown(one)) continue;
      const style = getComputedStyle(one);
      const ink = one instanceof SVGElement ? style.fill : style.color;
      const edge = style.paintOrder.startsWith("stroke") && style.stroke !== "none";
      const back = one instanceof SVGElement ? under(one, edge) : behind(one);
      const found = ratio(over(colour(ink), back), back);
      if (found < least) wrong.add(`${found.toFixed(2)}: ${name(one)} ${ink} on ${back.map(Math.round)}`);
    }
    for (const one of document.querySelectorAll("figure svg rect, ul.legend i")) {
      const style = getComputedStyle(one);
      const back = behind((one.closest("svg") || one).parentElement);
      const found = ratio(over(colour(one instanceof SVGElement ? style.fill : style.backgroundColor), back), back);
      if (found < 3) wrong.add(`${found.toFixed(2)}: a mark of class ${one.getAttribute("class")}`);
    }
    return [...wrong].slice(0, 20);
  };

  // Every table has a caption, and every cell a header above or before it.
  const tables = () => {
    const wrong = [];
    for (const one of document.querySelectorAll("table")) {
      const heads = one.tHead ? [...one.tHead.rows[0].cells] : [];
      if (!one.caption || !one.caption.textContent.trim()) wrong.push(`no caption: ${name(one)}`);
      if (!heads.length || heads.some((cell) => cell.scope !== "col" || !cell.textContent.trim()))
        wrong.push(`no header of a column: ${name(one)}`);
      for (const row of one.tBodies[0].rows)
        if (row.cells.length !== heads.length || row.cells[0].scope !== "row") wrong.push(`row: ${name(row)}`);
    }
    return wrong;
  };

  // Words in a chart that is drawn smaller than it was made are smaller too.
  const small = (least) => {
    const wrong = [];
    for (const one of document.querySelectorAll("body, td, th, p, dd, small, li, svg text")) {
      const svg = one.closest("svg");
      const scale = svg && svg.viewBox.baseVal.width ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
      const size = parseFloat(getComputedStyle(one).fontSize) * scale;
      if (size < least && shown(one)) wrong.push(`${size.toFixed(1)} px: ${name(one)}`);
    }
    return wrong.slice(0, 5);
  };

  // What has the focus, how far down the document it is, and whether that is seen.
  const focus = () => {
    const one = document.activeElement;
    if (!one || one === document.body) return null;
    const style = getComputedStyle(one);
    const place = [...document.querySelectorAll("*")].indexOf(one);
    return { place, name: name(one), seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 };
  };

  return { overflow, charts, contrast, tables, small, focus };
})();
