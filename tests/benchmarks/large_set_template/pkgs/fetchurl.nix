{ stdenv }:

{ url, sha256, name ? baseNameOf url }:

stdenv.mkDerivation {
  inherit name;
  urls = [ url ];
  outputHashAlgo = "sha256";
  outputHash = sha256;
  outputHashMode = "flat";
  buildCommand = "curl --location --output $out $urls";
  impureEnvVars = [ "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy" ];
}
