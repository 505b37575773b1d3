/** A TCP proxy that stands for the network between a player and a node: it can break, or swallow what passes. */
import { createServer, connect } from 'node:net';

export async function startProxy(target) {
  const pairs = new Set();
  /** Whose data vanishes. */
  let stalled = new Set();
  let refusing = false;
  const server = createServer((player) => {
    if (refusing) return player.destroy();
    const node = connect(proxy.target.port, '127.0.0.1');
    const pair = { player, node };
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      player.destroy();
      node.destroy();
    };
    for (const [name, from, to] of [['player', player, node], ['node', node, player]]) {
      from.on('data', (data) => void (stalled.has(name) || to.write(data)));
      from.on('close', end);
      from.on('error', end);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  /** `target`: the node to which the next connections go. */
  const proxy = {
    target,
    url: `ws://127.0.0.1:${server.address().port}/ws`,
    get connections() {
      return pairs.size;
    },
    /** Breaks every connection; `refuse`: and takes no others until `mend`. */
    cut({ refuse = false } = {}) {
      refusing = refuse;
      for (const { player, node } of pairs) {
        player.resetAndDestroy();
        node.resetAndDestroy();
      }
    },
    /** A tunnel: what these send vanishes, and neither end notices. */
    stall(...senders) {
      stalled = new Set(senders.length > 0 ? senders : ['player', 'node']);
    },
    /** All works again; streams that a tunnel left with holes break. */
    mend() {
      if (stalled.size > 0) this.cut();
      stalled.clear();
      refusing = false;
    },
    close() {
      this.cut();
      server.close();
    },
  };
  return proxy;
}
