// A page opened from a folder may not start a web worker, and the search runs in one. There it
// runs in a hidden frame instead, an idea of the package of this name.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      window.addEventListener("message", ({ source, data }) => {
        if (source === this.inner) this.dispatchEvent(new MessageEvent("message", { data }));
      });
      const page = this.inner.document;
      page.open();
      page.write(
        `<script>postMessage = (data) => parent.postMessage(data, "*")<\/script>` +
        `<script src="${url}"><\/script>`
      );
      page.close();
      this.ready = new Promise((done) => (this.inner.onload = done));
    }
    postMessage(data) {
      const message = new MessageEvent("message", { data: structuredClone(data) });
      this.ready.then(() => this.inner.dispatchEvent(message));
    }
  };
}
