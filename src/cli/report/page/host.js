// This host: what is linked, what is copied, what an image has for itself, and what a clean-up frees.
'use strict';

views.host = () => {
  const { status, generations, gc, frees } = data.host;
  const rows = status.images;
  const all = (of) => sum(rows.map((row) => of(row) || 0));
  const linked = all((row) => row.onDisk && row.onDisk.linked);
  const copied = all((row) => row.onDisk && row.onDisk.copied);
  const pulled = all((row) => (row.way === 'pulled' ? row.size : 0));
  const largest = Math.max(1, ...rows.map((row) => row.size));
  const parts = (row) => {
    const { onDisk, way } = row;
    const of = onDisk ? [['linked', onDisk.linked], ['copied', onDisk.copied]] : way === 'pulled' ? [['pulled', row.size]] : [];
    return h('span', { class: 'bar', 'aria-hidden': 'true' }, of.map(([kind, bytes]) => h('span', { class: `fill ${kind}`, style: { width: `${(bytes / largest) * 100}%` } })));
  };
  const number = (bytes) => (bytes === undefined || bytes === null ? '–' : size(bytes));
  return [h('div', { class: 'facts' },
    tile(`${rows.filter((row) => row.state === 'present').length} of ${rows.length}`, 'are there', status.generation ? `generation ${status.generation} is current` : 'nothing was loaded yet'),
    tile(size(linked), 'linked', 'no second copy on the disk'), tile(size(copied), 'copied', 'files that could not be linked'),
    tile(size(pulled), 'pulled', 'in Podman’s own store, shared layers counted each time'),
    tile(size(gc.bytes), 'freed by a clean-up', gc.collectable ? `and Nix may collect ${size(gc.collectable)} more` : 'windlass gc --apply')),
  h('div', { class: 'head' }, h('h2', { tabindex: '-1' }, 'This host')),
  h('dl', { class: 'places' },
    [['Graph root', `${status.graphRoot} (${status.driver}, ${status.rootless ? 'rootless' : 'rootful'})`],
      ['Linked store', `${status.linkedStore ? `${status.linkedStore}: ` : ''}${status.linkedStoreState}`],
      ['Free', status.free.map((one) => `${size(one.bytes)} in ${one.path}`).join(', ')]].map(([name, text]) => [h('dt', null, name), h('dd', { class: 'name' }, text)])),
  rows.length ? table('Images and models', [
    ['Image', (row) => h('span', { class: 'name' }, row.name), (row) => row.name],
    ['State', (row) => h('span', { class: `state ${row.state}` }, row.state === 'present' && row.way ? row.way : row.state), (row) => row.state],
    ['Size', (row) => size(row.size), (row) => row.size, 'num'],
    ['Exclusive', (row) => number(row.exclusive), (row) => row.exclusive || 0, 'num'],
    ['Shared', (row) => (row.shared === undefined ? '–' : `${size(row.shared)} with ${row.sharedWith}`), (row) => row.shared || 0, 'num'],
    ['Linked', (row) => number(row.onDisk && row.onDisk.linked), (row) => (row.onDisk ? row.onDisk.linked : 0), 'num'],
    ['Copied', (row) => number(row.onDisk && row.onDisk.copied), (row) => (row.onDisk ? row.onDisk.copied : 0), 'num'],
    ['', parts, null, 'bars'],
  ], rows, { limit: 100 }) : h('p', { class: 'muted' }, 'Nothing is loaded here.'),
  rows.filter((row) => row.why).map((row) => h('p', { class: 'note' }, `${row.name}: ${row.why}`)),
  generations.length ? [h('h3', null, 'Generations'), table(count(generations.length, 'generation'), [
    ['Generation', (one) => [String(one.number), one.current ? h('span', { class: 'state present' }, 'current') : null], (one) => one.number],
    ['Made', (one) => one.made || 'not known', (one) => one.made || ''],
    ['Images', (one) => one.images.length, (one) => one.images.length, 'num'],
    ['New or changed', (one) => one.images.filter((image) => image.state !== 'same').map((image) => image.name).join(', ') || 'none', null],
    ['Whole', (one) => (one.whole ? 'yes' : 'no'), (one) => (one.whole ? 1 : 0)],
  ], generations, { sorted: [0, true] })] : null,
  frees.length ? [h('h3', null, 'What a clean-up frees'), table('By the number of generations that stay', [
    ['Generations that stay', (one) => one.keep, (one) => one.keep, 'num'],
    ['Frees', (one) => size(one.bytes), (one) => one.bytes, 'num'],
    ['Nix may collect', (one) => size(one.collectable), (one) => one.collectable, 'num'],
    ['What goes', (one) => one.names.join(', ') || 'nothing', null],
  ], frees, {})] : null];
};
