{ lib }:
rec {
  optionalString = condition: text: if condition then text else "";

  concatMapStringsSep = separator: f: list: builtins.concatStringsSep separator (map f list);

  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;

  versionAtLeast = one: other: builtins.compareVersions one other >= 0;
}
