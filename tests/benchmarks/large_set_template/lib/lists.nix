{ lib }:
rec {
  foldr = op: nul: list:
    let
      len = builtins.length list;
      go = n: if n == len then nul else op (builtins.elemAt list n) (go (n + 1));
    in
    go 0;

  flatten = x: if builtins.isList x then builtins.concatMap flatten x else [ x ];

  optional = condition: element: if condition then [ element ] else [ ];
  optionals = condition: elements: if condition then elements else [ ];

  unique = builtins.foldl' (known: one: if builtins.elem one known then known else known ++ [ one ]) [ ];
}
