{{/* Names are cut at 46 characters, so that those of CronJobs (52) and pods have room for what is added. */}}
{{- define "bucket-av-scanner.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 46 | trimSuffix "-" }}
{{- end }}

{{- define "bucket-av-scanner.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "bucket-av-scanner.serviceAccountName" -}}
{{- default (ternary (include "bucket-av-scanner.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* Takes (list $ "component"). */}}
{{- define "bucket-av-scanner.selectorLabels" -}}
{{- $ := first . -}}
app.kubernetes.io/name: {{ include "bucket-av-scanner.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Takes (list $ "component"). */}}
{{- define "bucket-av-scanner.labels" -}}
{{- $ := first . -}}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "bucket-av-scanner.selectorLabels" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Without versions, whose change would replace the pods. Takes (list $ "component"). */}}
{{- define "bucket-av-scanner.podLabels" -}}
{{- $ := first . -}}
{{ include "bucket-av-scanner.selectorLabels" . }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with $.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Takes (list $ image "default tag"). */}}
{{- define "bucket-av-scanner.image" -}}
{{- $image := index . 1 -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 2) $image.tag }}{{ end }}
{{- end }}

{{/* A setting as a whole number. Takes (list $ "NAME" default). */}}
{{- define "bucket-av-scanner.number" -}}
{{- int (default (index . 2) (get (first .).Values.config (index . 1))) }}
{{- end }}

{{/* The port of an address such as [::]:8080. Takes (list $ "NAME" "default address"). */}}
{{- define "bucket-av-scanner.port" -}}
{{- regexFind "[0-9]+$" (toString (default (index . 2) (get (first .).Values.config (index . 1)))) }}
{{- end }}

{{/* Most replicas that there can be. */}}
{{- define "bucket-av-scanner.maxReplicas" -}}
{{- if .Values.keda.enabled }}{{ .Values.keda.maxReplicas }}
{{- else if .Values.autoscaling.enabled }}{{ .Values.autoscaling.maxReplicas }}
{{- else }}{{ .Values.replicaCount }}
{{- end }}
{{- end }}

{{/* Checksum of what the pods read once, at their start. */}}
{{- define "bucket-av-scanner.checksums" -}}
{{- if .Values.rules }}
checksum/rules: {{ toYaml .Values.rules | sha256sum }}
{{- end }}
{{- end }}

{{/*
The daemon's variables: what follows from other values, then `config`, which wins. Secrets are named as files.
Takes (list $ hasEngine): the pods of jobs have no engine beside them.
*/}}
{{- define "bucket-av-scanner.env" -}}
{{- $ := first . }}
{{- $env := dict }}
{{- if eq $.Values.clamd.mode "service" }}
{{- $_ := set $env "SCANNER" "clamd" }}
{{- $_ := set $env "CLAMD_ENDPOINT" (printf "tcp://%s-clamd:3310" (include "bucket-av-scanner.fullname" $)) }}
{{- else if and (eq $.Values.clamd.mode "sidecar") (last .) }}
{{- $_ := set $env "SCANNER" "clamd" }}
{{- $_ := set $env "CLAMD_ENDPOINT" "unix:///run/clamav/clamd.sock" }}
{{- end }}
{{- if $.Values.caBundle.name }}
{{- $_ := set $env "TLS_CA_FILE" (printf "/etc/bucket-av-scanner/ca/%s" $.Values.caBundle.key) }}
{{- end }}
{{- if $.Values.rules }}
{{- $_ := set $env "RULES_FILE" "/etc/bucket-av-scanner/rules/rules.yaml" }}
{{- end }}
{{- range $name, $ref := omit $.Values.secrets "RABBITMQ_REGULAR_USER_NAME" }}
{{- $_ := set $env (printf "%s_FILE" $name) (printf "/etc/bucket-av-scanner/secrets/%s" $name) }}
{{- end }}
{{- range $name, $value := $.Values.config }}
{{- if not (kindIs "invalid" $value) }}
{{- /* toJson: a template prints a large number as 1e+06. */}}
{{- $_ := set $env $name (kindIs "string" $value | ternary $value (toJson $value)) }}
{{- end }}
{{- end }}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $.Values.secrets.RABBITMQ_REGULAR_USER_NAME }}
- name: RABBITMQ_REGULAR_USER_NAME
  valueFrom:
    secretKeyRef:
      {{- toYaml . | nindent 6 }}
{{- end }}
{{- with $.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bucket-av-scanner.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
- name: secrets
  mountPath: /etc/bucket-av-scanner/secrets
  readOnly: true
{{- if .Values.caBundle.name }}
- name: ca
  mountPath: /etc/bucket-av-scanner/ca
  readOnly: true
{{- end }}
{{- if .Values.rules }}
- name: rules
  mountPath: /etc/bucket-av-scanner/rules
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* All but /tmp, which the jobs do not need as large as the daemon does. */}}
{{- define "bucket-av-scanner.volumes" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $ref := omit .Values.secrets "RABBITMQ_REGULAR_USER_NAME" }}
      - secret:
          name: {{ $ref.name }}
          items:
            - key: {{ $ref.key }}
              path: {{ $name }}
      {{- end }}
{{- if .Values.caBundle.name }}
- name: ca
  {{- if eq .Values.caBundle.kind "Secret" }}
  secret:
    secretName: {{ .Values.caBundle.name }}
  {{- else }}
  configMap:
    name: {{ .Values.caBundle.name }}
  {{- end }}
    items:
      - key: {{ .Values.caBundle.key }}
        path: {{ .Values.caBundle.key }}
{{- end }}
{{- if .Values.rules }}
- name: rules
  configMap:
    name: {{ include "bucket-av-scanner.fullname" . }}-rules
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the specifications of all pods have in common. */}}
{{- define "bucket-av-scanner.pod" -}}
serviceAccountName: {{ include "bucket-av-scanner.serviceAccountName" . }}
automountServiceAccountToken: false
# Else a Service called rabbitmq or clamd sets variables of the daemon.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Egress of every pod: names are looked up. */}}
{{- define "bucket-av-scanner.dns" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}
