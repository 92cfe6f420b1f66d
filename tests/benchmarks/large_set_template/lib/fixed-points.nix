rec {
  fix = f: let x = f x; in x;

  extends = overlay: f: final: let prev = f final; in prev // overlay final prev;

  composeExtensions = f: g: final: prev:
    let
      applied = f final prev;
      extended = prev // applied;
    in
    applied // g final extended;

  makeExtensible = rattrs: fix (self: rattrs self // {
    extend = overlay: makeExtensible (extends overlay rattrs);
  });
}
