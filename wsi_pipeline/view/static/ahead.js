// Asks for what the page begins with while its modules are still on their way; api.js takes it up.

{
  const slide = new URLSearchParams(location.hash.slice(1)).get("slide") ?? "";
  const urls = [`/api/first?slide=${encodeURIComponent(slide)}`, "/api/results", "/api/classes", "/api/tune"];
  window.asked = new Map(urls.map((url) => [url, fetch(url)]));
}
