{{/* Lines `Option value` of a map; lists repeat the option. */}}
{{- define "bucket-av-scanner.options" -}}
{{- range $option, $value := . }}
{{- range (kindIs "slice" $value | ternary $value (list $value)) }}
{{- if kindIs "bool" . }}
{{ $option }} {{ ternary "yes" "no" . }}
{{- else if not (kindIs "invalid" .) }}
{{ $option }} {{ kindIs "string" . | ternary . (toJson .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bucket-av-scanner.clamdConf" -}}
{{- /* clamd ends 3 bytes before 2 GiB. */}}
{{- $volume := min 2147483645 (mul (include "bucket-av-scanner.number" (list . "VOLUME_SIZE" 2)) 1073741824) }}
{{- $scans := mul 2 (include "bucket-av-scanner.number" (list . "SCAN_CONCURRENCY" 4)) }}
{{- if eq .Values.clamd.mode "service" }}
{{- $scans = mul $scans (include "bucket-av-scanner.maxReplicas" .) }}
{{- end }}
{{- $options := dict
  "Foreground" true
  "LogTime" true
  "DatabaseDirectory" "/var/lib/clamav"
  "TemporaryDirectory" "/tmp"
  "LocalSocket" "/run/clamav/clamd.sock"
  "LocalSocketMode" "660"
  "AlertExceedsMax" true
  "AlertEncrypted" true
  "StreamMaxLength" $volume
  "MaxFileSize" $volume
  "MaxScanSize" (mul 4 $volume)
  "MaxScanTime" (mul 800 (include "bucket-av-scanner.number" (list . "SCAN_TIMEOUT" 300)))
  "MaxThreads" (max 64 $scans)
  "MaxQueue" (max 256 (mul 2 $scans))
  "ConcurrentDatabaseReload" true }}
{{- if eq .Values.clamd.mode "service" }}
{{- $_ := set $options "TCPSocket" 3310 }}
{{- end }}
{{- include "bucket-av-scanner.options" (mergeOverwrite $options .Values.clamd.config) | trim }}
{{- end }}

{{- define "bucket-av-scanner.freshclamConf" -}}
{{- $options := dict
  "Foreground" true
  "LogTime" true
  "DatabaseDirectory" "/var/lib/clamav"
  "DatabaseMirror" "database.clamav.net"
  "NotifyClamd" "/etc/bucket-av-scanner/clamav/clamd.conf" }}
{{- include "bucket-av-scanner.options" (mergeOverwrite $options .Values.clamd.freshclam.config) | trim }}
{{- end }}

{{- define "bucket-av-scanner.clamdChecksum" -}}
checksum/clamd: {{ printf "%s\n%s" (include "bucket-av-scanner.clamdConf" .) (include "bucket-av-scanner.freshclamConf" .) | sha256sum }}
{{- end }}

{{/*
freshclam and clamd as init containers that keep running: they start in this order, each when the one before is ready,
and stop after the containers of the pod, so that running scans end.
*/}}
{{- define "bucket-av-scanner.freshclam" -}}
- name: freshclam
  image: {{ include "bucket-av-scanner.image" (list . .Values.clamd.image "") }}
  imagePullPolicy: {{ .Values.clamd.image.pullPolicy }}
  restartPolicy: Always
  # --daemon: without it, freshclam ends after one look.
  command: [freshclam, --daemon, --config-file=/etc/bucket-av-scanner/clamav/freshclam.conf]
  # clamd does not start without a database.
  startupProbe:
    exec:
      command: [sh, -c, "ls /var/lib/clamav/main.c[lv]d /var/lib/clamav/daily.c[lv]d"]
    periodSeconds: 5
    failureThreshold: {{ div (add .Values.clamd.startupSeconds 4) 5 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  resources:
    {{- toYaml .Values.clamd.freshclam.resources | nindent 4 }}
  volumeMounts:
    {{- include "bucket-av-scanner.clamdMounts" . | nindent 4 }}
{{- end }}

{{- define "bucket-av-scanner.clamd" -}}
- name: clamd
  image: {{ include "bucket-av-scanner.image" (list . .Values.clamd.image "") }}
  imagePullPolicy: {{ .Values.clamd.image.pullPolicy }}
  {{- if eq .Values.clamd.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  command: [clamd, --config-file=/etc/bucket-av-scanner/clamav/clamd.conf]
  {{- if eq .Values.clamd.mode "service" }}
  ports:
    - name: clamd
      containerPort: 3310
  {{- end }}
  startupProbe:
    exec:
      command: [clamdscan, --config-file=/etc/bucket-av-scanner/clamav/clamd.conf, --ping=1]
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: {{ div (add .Values.clamd.startupSeconds 4) 5 }}
  # Patient: one that is busy must not be taken for one that hangs. The daemon itself tests the engine all the time.
  livenessProbe:
    exec:
      command: [clamdscan, --config-file=/etc/bucket-av-scanner/clamav/clamd.conf, --ping=1]
    periodSeconds: 60
    timeoutSeconds: 30
    failureThreshold: 5
  {{- if eq .Values.clamd.mode "service" }}
  readinessProbe:
    tcpSocket:
      port: clamd
  {{- end }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  resources:
    {{- toYaml .Values.clamd.resources | nindent 4 }}
  volumeMounts:
    {{- include "bucket-av-scanner.clamdMounts" . | nindent 4 }}
{{- end }}

{{- define "bucket-av-scanner.clamdMounts" -}}
- name: clamd-config
  mountPath: /etc/bucket-av-scanner/clamav
  readOnly: true
- name: clamd-database
  mountPath: /var/lib/clamav
- name: clamd-socket
  mountPath: /run/clamav
- name: clamd-tmp
  mountPath: /tmp
{{- end }}

{{- define "bucket-av-scanner.clamdVolumes" -}}
- name: clamd-config
  configMap:
    name: {{ include "bucket-av-scanner.fullname" . }}-clamd
- name: clamd-socket
  emptyDir: {}
# clamd keeps each stream in a file while it scans.
- name: clamd-tmp
  emptyDir: {}
{{- end }}
