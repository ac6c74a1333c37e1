// Images × layers: a column is an image, a row is a layer, and a row is as high as its bytes.
'use strict';

// The images in an order in which those with much in common stand beside each other.
function columnsOf(list) {
  const left = [...list];
  const weight = (image) => sum(image.layers.map((n) => layers[n].size * (layers[n].users.length - 1)));
  left.sort((a, b) => weight(b) - weight(a) || a.index - b.index);
  const order = left.splice(0, 1);
  while (left.length) {
    const last = new Set(order[order.length - 1].layers);
    const common = (image) => sum(image.layers.filter((n) => last.has(n)).map((n) => layers[n].size));
    let best = 0;
    left.forEach((image, n) => { if (common(image) > common(left[best])) best = n; });
    order.push(...left.splice(best, 1));
  }
  return order;
}

// The layers from the bottom up, each above those that it lies on in every image.
function rowsOf(columns) {
  const RANK = ['model', 'base', 'closure', 'root'];
  const below = layers.map(() => new Set());
  const above = layers.map(() => new Set());
  for (const { layers: list } of images) {
    list.slice(1).forEach((upper, n) => { below[upper].add(list[n]); above[list[n]].add(upper); });
  }
  const place = new Map(columns.map((image, n) => [image.index, n]));
  const first = layers.map((layer) => Math.min(...layer.users.map((image) => place.get(image) ?? 0), columns.length));
  const left = new Set(layers.map((layer) => layer.index));
  const rank = (n) => [RANK.indexOf(layers[n].kind), -layers[n].users.length, first[n], n];
  const before = (a, b) => {
    const [x, y] = [rank(a), rank(b)];
    const at = x.findIndex((value, n) => value !== y[n]);
    return at >= 0 && x[at] < y[at];
  };
  const order = [];
  while (left.size) {
    let next = null;
    // Images of several stacks may disagree: then the first is taken.
    for (const isFree of [(n) => below[n].size === 0, () => true]) {
      if (next !== null) break;
      for (const n of left) if (isFree(n) && (next === null || before(n, next))) next = n;
    }
    left.delete(next);
    for (const n of above[next]) below[n].delete(next);
    order.push(layers[next]);
  }
  return order;
}

const SCALES = {
  bytes: ['Bytes', 'A row is as high as its bytes; what would be thinner than three pixels is three.'],
  root: ['Square root', 'A row is as high as the square root of its bytes.'],
  even: ['Even', 'Every row has the same height.'],
};
let scale = 'bytes';

function heights(rows) {
  if (scale === 'even') return rows.map(() => 24);
  const of = scale === 'root' ? Math.sqrt : (bytes) => bytes;
  const all = sum(rows.map((layer) => of(layer.size))) || 1;
  const [room, least] = scale === 'root' ? [Math.max(520, rows.length * 9), 5] : [560, 3];
  return rows.map((layer) => Math.max(least, Math.round((of(layer.size) / all) * room)));
}

// The cells of a row: one band for images side by side, and a line over those between that lack the layer.
function cells(layer, columns) {
  const has = columns.map((image) => layer.users.includes(image.index));
  const band = [];
  has.forEach((is, n) => {
    if (is && !has[n - 1]) band.push([n, n + 1]);
    else if (is) band[band.length - 1][1] = n + 1;
  });
  const lines = band.slice(1).map(([start], n) => svg('line', { x1: band[n][1], x2: start, y1: 0.5, y2: 0.5 }));
  return svg('svg', { viewBox: `0 0 ${columns.length} 1`, preserveAspectRatio: 'none', 'aria-hidden': 'true', focusable: 'false' },
    lines, band.map(([start, end]) => svg('rect', { x: start, y: 0, width: end - start, height: 1 })));
}

function layerPanel(layer) {
  if (!layer) {
    return [h('h3', null, 'What the colours say'),
      h('ul', { class: 'legend' }, Object.entries(KINDS).filter(([kind]) => layers.some((one) => kindOf(one) === kind)).map(([kind, words]) => {
        const of = layers.filter((one) => kindOf(one) === kind);
        return h('li', null, h('span', { class: `swatch ${kind}`, 'aria-hidden': 'true' }), h('span', null, words), h('span', { class: 'num' }, size(sum(of.map((one) => one.size)))));
      })),
      h('p', { class: 'muted' }, 'Choose a layer to see what is in it, and which images have it. A band over several columns is there once for all of them.')];
  }
  const list = layer.paths.map((n) => paths[n]).sort(by((path) => path.own));
  return [h('h3', { class: 'name' }, layerName(layer)),
    h('p', null, h('span', { class: `kind ${kindOf(layer)}` }, KINDS[kindOf(layer)]), ' ', h('strong', null, size(layer.size)), ` in ${count(layer.users.length, 'image')}`),
    layer.why ? h('p', { class: 'muted' }, layer.why) : null,
    h('p', { class: 'chips' }, layer.images.map((n) => imageLink(images[n]))),
    h('p', null, h('a', { class: 'button', href: link('files', 'layer', short(layer.digest)) }, 'Files as a treemap')),
    list.length ? h('h4', null, count(list.length, 'store path')) : null,
    h('ul', { class: 'sizes' }, list.slice(0, 60).map((path) => h('li', null, pathLink(path), h('span', { class: 'num' }, size(path.own))))),
    list.length > 60 ? h('p', { class: 'muted' }, `and ${list.length - 60} smaller ones: the treemap has them`) : null,
    h('p', { class: 'digest' }, h('code', null, layer.digest))];
}

views.stack = (parts) => {
  const columns = columnsOf(shown);
  const rows = rowsOf(columns).filter((layer) => layer.images.length > 0);
  const chosen = layers.find((layer) => parts[0] && short(layer.digest) === parts[0]) || null;
  const once = sum(layers.map((layer) => layer.size));
  const apart = sum(shown.map((image) => image.size));
  const common = layers.filter((layer) => layer.users.length > 1);
  const models = layers.filter((layer) => layer.kind === 'model');
  const panel = h('aside', { class: 'panel', 'aria-label': 'Layer' }, layerPanel(chosen));
  const look = (layer) => panel.replaceChildren(...add(document.createDocumentFragment(), layerPanel(layer)).childNodes);
  const high = heights(rows);
  // The lowest layer stands at the bottom, and is the last to be read.
  const top = rows.map((layer, n) => [layer, high[n]]).reverse();
  const buttons = top.map(([layer, height]) => h('button', {
    type: 'button', class: `row ${kindOf(layer)}${height >= 15 ? '' : ' thin'}`, style: { height: `${height}px` },
    tabindex: '-1', 'aria-pressed': String(layer === chosen), 'data-images': layer.users.join(' '),
    'aria-label': `${layerName(layer)}, ${KINDS[kindOf(layer)]}, ${size(layer.size)}, in ${layer.users.length} of ${columns.length} images`,
    onclick: () => (layer === chosen ? go('stack') : go('stack', short(layer.digest))),
    onpointerenter: () => look(layer), onpointerleave: () => look(chosen), onfocus: () => look(layer), onblur: () => look(chosen),
  }, cells(layer, columns), height >= 15 ? h('span', { class: 'label' }, h('span', { class: 'name' }, layerName(layer)), h('span', { class: 'num' }, size(layer.size))) : null));
  const start = Math.max(0, top.findIndex(([layer]) => layer === chosen));
  if (buttons[start]) buttons[start].tabIndex = 0;
  const step = (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  };
  const light = (image) => buttons.forEach((button) =>
    button.classList.toggle('dim', image !== null && !button.dataset.images.split(' ').includes(String(image))));
  const heads = columns.map((image) => h('a', {
    href: link('files', 'image', key(image)), title: `${key(image)}: ${size(image.size)}`,
    onpointerenter: () => light(image.index), onpointerleave: () => light(null), onfocus: () => light(image.index), onblur: () => light(null),
  }, h('span', { class: 'name' }, key(image))));
  // Rows that are too thin for a label have one together.
  const runs = [];
  let from = 0;
  top.forEach(([layer, height], n) => {
    const last = runs[runs.length - 1];
    if (height < 15) {
      if (last && last.end === n && last.kind === kindOf(layer)) Object.assign(last, { end: n + 1, high: last.high + height, bytes: last.bytes + layer.size });
      else runs.push({ end: n + 1, start: n, kind: kindOf(layer), from, high: height, bytes: layer.size });
    }
    from += height;
  });
  const together = runs.filter((run) => run.high >= 20).map((run) => h('div', { class: `run${run.high > 160 ? ' long' : ''}`, 'aria-hidden': 'true', style: { top: `${run.from}px`, height: `${run.high}px` } },
    h('span', { class: 'words' }, `${count(run.end - run.start, 'layer')}: ${KINDS[run.kind].toLowerCase()}`), h('span', { class: 'num' }, size(run.bytes))));
  const matrix = h('div', { class: 'matrix', style: { '--columns': columns.length }, onkeydown: step },
    h('div', { class: 'heads' }, heads), h('div', { class: `rows ${scale}`, role: 'group', 'aria-label': 'Layers, the lowest one last' }, buttons, together));
  const choice = h('div', { class: 'choice', role: 'group', 'aria-label': 'Height of a row' }, Object.entries(SCALES).map(([name, [words]]) =>
    h('button', { type: 'button', 'aria-pressed': String(scale === name), onclick: () => { scale = name; render(); document.querySelector(`[data-scale=${name}]`).focus(); }, 'data-scale': name }, words)));
  const columnsOfTable = [
    ['Layer', (layer) => h('a', { class: 'name', href: link('files', 'layer', short(layer.digest)) }, layerName(layer)), layerName],
    ['Kind', (layer) => KINDS[kindOf(layer)], kindOf],
    ['Size', (layer) => size(layer.size), (layer) => layer.size, 'num'],
    ['Images', (layer) => layer.users.length, (layer) => layer.users.length, 'num'],
    ['Store paths', (layer) => layer.paths.length, (layer) => layer.paths.length, 'num'],
    ['Which images', (layer) => layer.users.map((n) => key(images[n])).join(', ')],
  ];
  return [h('div', { class: 'facts' },
    tile(shown.length, (running.length ? 'image' : 'model') + (shown.length === 1 ? '' : 's'), models.length && running.length ? `${count(models.length, 'layer')} of models` : null),
    tile(size(once), 'each layer once', count(layers.length, 'layer')),
    apart > once ? tile(size(apart - once), 'saved by sharing', `${size(apart)} if no image shared a layer`) : null,
    tile(common.length, 'layers in several images', size(sum(common.map((layer) => layer.size)))),
    tile(paths.length, 'store paths', paths.some((path) => path.own === null) ? null : size(sum(paths.map((path) => path.own))))),
  h('div', { class: 'head' }, h('h2', { tabindex: '-1' }, 'Images and their layers'), choice),
  h('p', { class: 'muted' }, `A column is an image, a row is a layer; models lie at the bottom. ${SCALES[scale][1]}`),
  h('div', { class: 'split' }, h('div', { class: 'scroll' }, matrix), panel),
  h('details', { class: 'as-table' }, h('summary', null, 'The same as a table'), table(`${count(rows.length, 'layer')}, the lowest first`, columnsOfTable, rows, { limit: 60 }))];
};
