// An object in a worker of its own, so that two cores work at a time. It is asked by messages, and what it
// gives are promises.

export class Elsewhere {
  /**
   * worker   new, and running the script that this one runs
   * acts     the methods that are asked for
   * name     what is made there, and `given` from what; see `answering`
   */
  constructor(worker, acts, name, given) {
    this.worker = worker;
    this.waiting = []; // for answers, which come in the order of the questions
    this.gone = null; // why there is no worker any more
    worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.shift();
      if (data.failed === undefined) resolve(data.answer);
      else reject(new Error(data.failed));
    };
    worker.onerror = (event) => {
      event.preventDefault?.(); // it is told here, and no one else need hear of it
      this.gone = new Error(event.message || "the second worker is gone");
      for (const { reject } of this.waiting.splice(0)) reject(this.gone);
    };
    for (const act of acts) this[act] = (...given) => this.ask(act, given);
    this.made = this.ask(name, given); // fails where a browser lets no worker have another
  }

  ask(act, given) {
    if (this.gone) return Promise.reject(this.gone);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage({ kind: "elsewhere", act, given });
    });
  }
}

/** What such a worker does with a message: one of the `makers` makes the object, and it is asked. */
export function answering(makers) {
  let made = null;
  return async ({ act, given }) => {
    if (!made) {
      made = makers[act](given);
      return made.then(() => null);
    }
    return (await made)[act](...given);
  };
}
