/* Search in pages that are opened from a disk. Browsers give such pages no worker, so that the script of the search runs
   in a hidden frame of the page instead; what it says and is told goes the same way. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<title>search</title>";
      this.inside = new Promise((ready) => {
        frame.onload = () => {
          const place = frame.contentWindow;
          place.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = place.document.createElement("script");
          script.src = new URL(address, location);
          script.onload = () => ready(place);
          place.document.head.append(script);
        };
      });
      document.documentElement.append(frame);
    }

    postMessage(data) {
      this.inside.then((place) => place.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
