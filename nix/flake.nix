# For flakes, in a folder of theirs: `nix build 'git+file:///path/to/nixery?dir=nix#nixery'`.
{
  description = "A container registry that builds images on demand, with Nix";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      each = nixpkgs.lib.genAttrs [
        "aarch64-linux"
        "x86_64-linux"
      ];
    in
    {
      packages = each (
        system:
        let
          parts = import ../default.nix { pkgs = nixpkgs.legacyPackages.${system}; };
        in
        parts // { default = parts.nixery; }
      );

      nixosModules.default = ./module.nix;
    };
}
