// Wide tables scroll in a box: the keyboard reaches it, too.
const reach = () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) box.setAttribute("tabindex", "0");
};
new MutationObserver(reach).observe(document.documentElement, { childList: true, subtree: true });
reach();
