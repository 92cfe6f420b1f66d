{{- define "nixery.selector" -}}
app.kubernetes.io/name: nixery
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nixery.labels" -}}
{{ include "nixery.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The configuration file: the values win over what the chart sets. */ -}}
{{- define "nixery.configuration" -}}
{{- $set := dict "public_url" (printf "https://%s" .Values.host) }}
{{- if .Values.htpasswdSecret }}
{{- $set = merge $set (dict "auth" "token" "htpasswd_file" "/etc/nixery-users/htpasswd") }}
{{- end }}
{{- toYaml (merge (deepCopy .Values.config) $set) }}
{{- end }}
