{{- define "chat.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The labels of one role: (list . "edge") */}}
{{- define "chat.selector" -}}
app.kubernetes.io/name: {{ include "chat.name" (index . 0) }}-{{ index . 1 }}
{{- end }}

{{- define "chat.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Environment variables for a map of settings. */}}
{{- define "chat.settings" -}}
{{- range $key, $value := . }}
{{- if kindIs "slice" $value }}
{{- $value = join "," $value }}
{{- end }}
{{- if ne (toString $value) "" }}
- {name: CHAT__{{ $key | replace "." "__" | upper }}, value: {{ toString $value | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The environment of one role: (list . .Values.edge) */}}
{{- define "chat.env" -}}
{{- $root := index . 0 }}
{{- $role := index . 1 }}
{{- include "chat.settings" $root.Values.settings }}
{{- include "chat.settings" ($role.settings | default dict) }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- with $role.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The Secrets of a role: the addresses, and those of its own. (list . "edge"); "" = only the addresses. */}}
{{- define "chat.secrets" -}}
{{- $secrets := (index . 0).Values.secrets }}
- secretRef: {name: {{ $secrets.addresses }}}
{{- with get $secrets (index . 1) }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* What all pods have: labels, annotations. (list . "edge" .Values.edge) */}}
{{- define "chat.podMetadata" -}}
{{- $root := index . 0 }}
{{- $role := index . 2 }}
labels:
  {{- include "chat.selector" (list $root (index . 1)) | nindent 2 }}
  {{- with $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) $role.podAnnotations $root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "chat.podSpec" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* (list . "edge" .Values.edge) */}}
{{- define "chat.spread" -}}
{{- $selector := include "chat.selector" (list (index . 0) (index . 1)) }}
{{- with (index . 2).topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 | trim }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels: { {{- $selector -}} }
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "chat.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
