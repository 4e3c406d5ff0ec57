// @ts-check
// Commands on their way: one after the other, each sent until it is answered, none twice. Pure but for what it is given.

/** A command the server refused; the message is one line for people. */
export class Refused extends Error {}

/** @typedef {{id: string, gesture: string, command: object}} Item */

export class Outbox {
  /**
   * @param {object} with_
   * @param {(item: object) => Promise<{status: number, body: any}>} with_.send  rejects where nobody answers
   * @param {(body: any) => void} with_.answered  every answer that has a state, in order
   * @param {(offline: boolean) => void} with_.reached
   * @param {(ms: number) => Promise<void>} with_.wait
   * @param {() => string} with_.name  a new id
   * @param {{load(): Item[], save(items: Item[]): void}} with_.store  outlives the page
   */
  constructor({ send, answered, reached, wait, name, store }) {
    this.send = send;
    this.answered = answered;
    this.reached = reached;
    this.wait = wait;
    this.name = name;
    this.store = store;
    this.rev = 0; // the newest revision the page knows
    /** @type {(Item & {resolve(body: any): void, reject(error: Error): void})[]} */
    this.items = [];
    this.running = null;
  }

  /** What an earlier page left unsent. An error of it was nobody's who is still there. */
  resume() {
    for (const item of this.store.load()) this._put(item).catch(() => {});
  }

  /** Send a command; the answer, or Refused. Commands of one gesture are undone together. */
  add(command, gesture = "") {
    return this._put({ id: this.name(), gesture: gesture || this.name(), command });
  }

  _put(item) {
    const done = new Promise((resolve, reject) => this.items.push({ ...item, resolve, reject }));
    this._keep();
    this.running ??= this._run().finally(() => (this.running = null));
    return done;
  }

  _keep() {
    this.store.save(this.items.map(({ id, gesture, command }) => ({ id, gesture, command })));
  }

  async _run() {
    for (let pause = 250; this.items.length; ) {
      const item = this.items[0];
      let answer;
      try {
        answer = await this.send({ id: item.id, base_rev: this.rev, gesture: item.gesture, command: item.command });
        if (answer.status >= 500) throw new Error("the server is not well");
      } catch {
        this.reached(false);
        await this.wait(pause);
        pause = Math.min(pause * 2, 8000);
        continue;
      }
      pause = 250;
      this.reached(true);
      if (answer.status === 409) { // somebody else was first: look, and ask for the same again
        this.rev = answer.body.rev;
        this.answered(answer.body);
        continue;
      }
      this.items.shift();
      this._keep();
      if (answer.status === 200) {
        this.rev = answer.body.rev;
        this.answered(answer.body);
        item.resolve(answer.body);
      } else item.reject(new Refused(answer.body?.error ?? `The server said ${answer.status}.`));
    }
  }
}
