{ lib }:
let
  cpus = [ "x86_64" "aarch64" "i686" "armv7l" "riscv64" "powerpc64le" "s390x" "mips64el" ];
  on = kernel: map (cpu: "${cpu}-${kernel}") cpus;
in
rec {
  linux = on "linux";
  darwin = [ "x86_64-darwin" "aarch64-darwin" ];
  freebsd = on "freebsd";
  unix = linux ++ darwin ++ freebsd ++ on "netbsd" ++ on "openbsd";
  windows = on "windows";
  all = unix ++ windows;
}
