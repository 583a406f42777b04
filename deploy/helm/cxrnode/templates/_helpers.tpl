{{/* The name of everything: the release's, shortened so that suffixes fit into 63 characters. */}}
{{- define "cxrnode.name" -}}
{{- if contains "cxrnode" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-cxrnode" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{/* The labels by which things are selected. */}}
{{- define "cxrnode.selector" -}}
app.kubernetes.io/name: cxrnode
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cxrnode.labels" -}}
{{ include "cxrnode.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cxrnode.image" -}}
{{- $own := .own | default dict -}}
{{- $tag := $own.tag | default .root.Values.image.tag | default (printf "%s-cpu" .root.Chart.AppVersion) -}}
{{ $own.repository | default .root.Values.image.repository }}:{{ $tag }}
{{- end }}

{{- define "cxrnode.claim" -}}
{{ .Values.spool.existingClaim | default (printf "%s-spool" (include "cxrnode.name" .)) }}
{{- end }}

{{/* What every pod of the node is bound by: the "restricted" Pod Security Standard. */}}
{{- define "cxrnode.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "cxrnode.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The variables over the configuration file: which role, and the database. */}}
{{- define "cxrnode.environment" -}}
- name: CXRNODE__NODE__ROLES
  value: {{ printf "[%q]" .role | quote }}
- name: CXRNODE__DATABASE__URL
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.existingSecret }}
      key: database-url
{{- end }}

{{- define "cxrnode.mounts" -}}
- name: config
  mountPath: /etc/cxrnode/cxrnode.toml
  subPath: cxrnode.toml
  readOnly: true
{{- if .Values.secretFiles }}
- name: secrets
  mountPath: /etc/cxrnode/secrets
  readOnly: true
{{- end }}
- name: data
  mountPath: /var/lib/cxrnode
{{- if .Values.models.existingClaim }}
- name: models
  mountPath: /var/lib/cxrnode/models
  readOnly: true
{{- end }}
{{- if .Values.spool.volume }}
- name: spool
  mountPath: /var/spool/cxrnode
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{- define "cxrnode.volumes" -}}
- name: config
  configMap:
    name: {{ include "cxrnode.name" . }}
{{- if .Values.secretFiles }}
- name: secrets
  secret:
    secretName: {{ .Values.secretFiles }}
    defaultMode: 0440
{{- end }}
- name: data
  emptyDir: {}
{{- if .Values.models.existingClaim }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .Values.models.existingClaim }}
    readOnly: true
{{- end }}
{{- if .Values.spool.volume }}
- name: spool
  persistentVolumeClaim:
    claimName: {{ include "cxrnode.claim" . }}
{{- end }}
- name: tmp
  emptyDir: {}
{{- end }}
